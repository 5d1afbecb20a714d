"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from learner import losses


def softplus(x: float) -> float:
    """-log σ(-x)."""
    return math.log1p(math.exp(x))


def test_sft_counts_the_reply_s_tokens_alone() -> None:
    log_probs = torch.tensor([[-9.0, -1.0, -2.0, -9.0], [-9.0, -9.0, -3.0, float("nan")]])
    mask = torch.tensor([[False, True, True, False], [False, False, True, False]])
    loss, metrics = losses.sft_loss(log_probs, mask)
    assert loss.item() == pytest.approx((1 + 2 + 3) / 3)
    assert metrics["nll"] == loss.item()


def test_sft_trains_the_last_token() -> None:
    log_probs = torch.zeros(1, 3, requires_grad=True)
    losses.sft_loss(log_probs, torch.tensor([[False, True, True]]))[0].backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[0.0, -0.5, -0.5]]


def test_sft_weights_count_by_example() -> None:
    log_probs = torch.tensor([[-1.0, -1.0], [-4.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    loss, _ = losses.sft_loss(log_probs, mask, torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((1 + 1 + 3 * 4) / (1 + 1 + 3))


def test_sft_of_nothing_is_zero() -> None:
    loss, _ = losses.sft_loss(torch.full((2, 3), float("nan")), torch.zeros(2, 3, dtype=torch.bool))
    assert loss.item() == 0
    assert losses.sft_loss(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool))[0].item() == 0


def test_a_margin_of_nothing_is_right_half_of_the_time() -> None:
    """As at the first step, where policy and anchor are the same but for rounding."""
    gained = torch.tensor([0.0, 1e-6, -1e-6, 1.0, -1.0, 2.0])
    _, metrics = losses.dpo_loss(gained, torch.zeros(6), torch.zeros(6), torch.zeros(6), beta=1.0)
    assert metrics["reward_accuracy"] == pytest.approx((3 * 0.5 + 2) / 6)


def test_dpo_by_hand() -> None:
    loss, metrics = losses.dpo_loss(
        torch.tensor([-10.0]), torch.tensor([-14.0]), torch.tensor([-11.0]), torch.tensor([-12.0]), beta=0.5
    )
    # chosen gained 1, rejected lost 2: logits 0.5 · 3
    assert loss.item() == pytest.approx(softplus(-1.5))
    assert metrics["reward_margin"] == pytest.approx(1.5)
    assert metrics["reward_accuracy"] == 1
    assert metrics["chosen_reward"] == pytest.approx(0.5)
    assert metrics["rejected_reward"] == pytest.approx(-1.0)


def test_an_unchanged_policy_pays_log_two() -> None:
    same = torch.tensor([-3.0, -7.0])
    assert losses.dpo_loss(same, same - 1, same, same - 1, beta=0.3)[0].item() == pytest.approx(math.log(2))


def test_label_smoothing_expects_some_judgements_to_be_wrong() -> None:
    one, zero = torch.tensor([2.0]), torch.tensor([0.0])
    loss, _ = losses.dpo_loss(one, zero, zero, zero, beta=1.0, label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.9 * softplus(-2) + 0.1 * softplus(2))


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.45])
def test_robust_dpo_costs_on_average_over_mistakes_what_judgements_without_them_do(wrong: float) -> None:
    better, worse, anchor = doubles(-10.0), doubles(-14.0), doubles(-12.0)
    right, mistaken = (
        losses.dpo_loss(*judged, anchor, anchor, beta=0.5, label_smoothing=wrong, robust=True)[0].item()
        for judged in ((better, worse), (worse, better))
    )
    assert (1 - wrong) * right + wrong * mistaken == pytest.approx(softplus(-2.0), abs=1e-12)


def test_robust_dpo_by_hand() -> None:
    policy, zero, margins = doubles(2.0, -1.0), doubles(0.0, 0.0), doubles(math.e, 1.0)
    loss, metrics = losses.dpo_loss(
        policy, zero, zero, zero, beta=1.0, label_smoothing=0.2, robust=True, margins=margins
    )
    each = [(0.8 * softplus(-z) - 0.2 * softplus(z)) / 0.6 for z in (2.0 - 1.0, -1.0)]
    assert loss.item() == pytest.approx(sum(each) / 2, abs=1e-12)
    assert metrics["reward_accuracy"] == 0.5 and metrics["reward_margin"] == pytest.approx(0.5)
    assert torch.autograd.gradcheck(
        lambda one: losses.dpo_loss(one, zero, zero, zero, beta=0.7, label_smoothing=0.2, robust=True)[0],
        policy.requires_grad_(),
    )


def test_a_tie_is_a_tie_to_robust_dpo() -> None:
    policy, zero, ties = doubles(2.0, 1.0), doubles(0.0, 0.0), torch.tensor([True, True])
    loss, _ = losses.dpo_loss(policy, zero, zero, zero, beta=1.0, label_smoothing=0.2, robust=True, ties=ties)
    assert loss.item() == pytest.approx(sum(softplus(-z) + softplus(z) for z in (2.0, 1.0)) / 4, abs=1e-12)


def test_robust_dpo_refuses_judgements_of_which_half_are_wrong() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"fewer than half .* 0\.5"):
        losses.dpo_loss(one, one, one, one, beta=1.0, label_smoothing=0.5, robust=True)
    assert losses.dpo_loss(one, one, one, one, beta=1.0, label_smoothing=0.5)[0].item() == pytest.approx(math.log(2))


def test_a_stronger_preference_asks_for_a_larger_difference() -> None:
    one, zero = torch.tensor([2.0]), torch.tensor([0.0])
    loss, _ = losses.dpo_loss(one, zero, zero, zero, beta=1.0, margins=torch.tensor([math.e]))
    assert loss.item() == pytest.approx(softplus(-1.0))
    ordinary, _ = losses.dpo_loss(one, zero, zero, zero, beta=1.0, margins=torch.tensor([1.0]))
    assert ordinary.item() == pytest.approx(softplus(-2.0))


def test_a_tie_pulls_both_together_whatever_its_margin_and_counts_in_no_accuracy() -> None:
    chosen = torch.tensor([2.0, 1.0], requires_grad=True)
    zero = torch.zeros(2)
    ties = torch.tensor([True, False])
    loss, metrics = losses.dpo_loss(chosen, zero, zero, zero, beta=1.0, ties=ties, margins=torch.tensor([9.0, 1.0]))
    assert loss.item() == pytest.approx((0.5 * softplus(-2) + 0.5 * softplus(2) + softplus(-1)) / 2)
    loss.backward()
    assert chosen.grad is not None
    assert chosen.grad[0] > 0 > chosen.grad[1]  # descending makes the tied reply less, the chosen one more likely
    assert metrics["reward_accuracy"] == 1
    assert metrics["reward_margin"] == pytest.approx(1.0)


def test_only_ties_give_no_accuracy_and_no_pairs_give_zero() -> None:
    zero = torch.zeros(1)
    _, metrics = losses.dpo_loss(zero, zero, zero, zero, beta=1.0, ties=torch.tensor([True]))
    assert metrics["reward_accuracy"] == 0
    none = torch.zeros(0)
    assert losses.dpo_loss(none, none, none, none, beta=1.0)[0].item() == 0


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_of_each(
    weights: torch.Tensor | None = None, drift: float = 0.5, **sides: float
) -> tuple[torch.Tensor, losses.Metrics]:
    """A good reply that gained 2 nats and a bad one that gained 1."""
    mismatched = doubles(-20.0, -21.0 + 2 * drift - 1)
    return losses.kto_loss(
        doubles(-10.0, -8.0), doubles(-12.0, -9.0), torch.tensor([True, False]), mismatched, doubles(-21.0, -21.0),
        beta=0.5, weights=weights, **sides,
    )  # fmt: skip


def test_kto_by_hand() -> None:
    # z₀ = ½: the good reply is 1½ above it, 1 - σ(¾) = 0.3208213008; the bad one ½ above it, 1 - σ(-¼) = 0.5621765009
    loss, metrics = one_of_each()
    assert loss.item() == pytest.approx((0.3208213008246 + 0.5621765008858) / 2, abs=1e-12)
    assert metrics == {"kto": loss.item(), "reference_kl": 0.5, "good_reward": 1.0, "bad_reward": 0.5}
    loss, _ = one_of_each(desirable_weight=1.5, undesirable_weight=0.4)
    assert loss.item() == pytest.approx((1.5 * 0.3208213008246 + 0.4 * 0.5621765008858) / 2, abs=1e-12)
    loss, _ = one_of_each(doubles(3.0, 1.0))
    assert loss.item() == pytest.approx((3 * 0.3208213008246 + 0.5621765008858) / 4, abs=1e-12)


def test_kto_counts_from_zero_where_replies_to_other_prompts_became_less_likely() -> None:
    loss, metrics = one_of_each(drift=-4.0)
    assert metrics["reference_kl"] == 0
    assert loss.item() == pytest.approx((0.2689414213700 + 0.6224593312019) / 2, abs=1e-12)  # 1 - σ(1), 1 - σ(-½)


def test_kto_s_gradient_is_that_of_finite_differences_and_z0_has_none() -> None:
    policy = doubles(-10.0, -8.0, -3.0, -7.0).requires_grad_()
    mismatched = doubles(-20.0, -19.0).requires_grad_()
    labels = torch.tensor([True, False, True, False])

    def loss(log_probs: torch.Tensor) -> torch.Tensor:
        return losses.kto_loss(
            log_probs, doubles(-11.0, -8.5, -3.0, -4.0), labels, mismatched, doubles(-21.0, -21.0), beta=0.3,
            desirable_weight=1.2, undesirable_weight=0.7, weights=doubles(1.0, 0.5, 2.0, 1.0),
        )[0]  # fmt: skip

    assert torch.autograd.gradcheck(loss, (policy,))
    loss(policy).backward()
    assert policy.grad is not None and mismatched.grad is None
    assert ((policy.grad < 0) == labels).all()  # descending makes good replies likelier and bad ones less so


def test_kto_of_one_side_alone_or_of_nothing_has_a_finite_value() -> None:
    none = torch.zeros(0)
    for side in (True, False):
        one, metrics = losses.kto_loss(
            doubles(-1.0), doubles(-1.0), torch.tensor([side]), none, none, beta=0.1, desirable_weight=2.0
        )
        assert one.item() == pytest.approx(1.0 if side else 0.5)  # λ · σ(0)
        assert metrics["reference_kl"] == metrics["good_reward"] == metrics["bad_reward"] == 0
    loss, _ = losses.kto_loss(none, none, none.bool(), none, none, beta=0.1)
    assert loss.item() == 0
    impossible = torch.tensor([-torch.inf])
    assert losses.kto_loss(none, none, none.bool(), impossible, none.new_zeros(1), beta=0.1)[1]["reference_kl"] == 0


def test_listwise_is_zero_where_the_policy_already_has_the_target_odds() -> None:
    anchor = torch.tensor([[-5.0, -6.0, -7.0]])
    rewards = torch.tensor([[1.0, 0.0, -2.0]])
    loss, _ = losses.listwise_loss(anchor + rewards + 3, anchor, torch.softmax(rewards, -1), torch.ones(1, 3).bool())
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_listwise_of_two_replies_is_dpo() -> None:
    log_probs, anchor = torch.tensor([[-10.0, -14.0]]), torch.tensor([[-11.0, -12.0]])
    loss, _ = losses.listwise_loss(log_probs, anchor, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2).bool())
    pair, _ = losses.dpo_loss(log_probs[:, 0], log_probs[:, 1], anchor[:, 0], anchor[:, 1], beta=1.0)
    assert loss.item() == pytest.approx(pair.item())


def test_listwise_ignores_missing_replies_and_lone_ones() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, 99.0], [-3.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    targets = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    loss, _ = losses.listwise_loss(log_probs, torch.zeros(2, 3), targets, mask)
    assert loss.item() == pytest.approx(0.5 * softplus(-1) + 0.5 * softplus(1) - math.log(2))
    assert losses.listwise_loss(log_probs[1:], torch.zeros(1, 3), targets[1:], mask[1:])[0].item() == 0


def test_a_soft_label_costs_as_much_of_either_side() -> None:
    """Against the sum written out for β = 1 and a difference of 0.7: -p log σ(0.7) - (1 - p) log σ(-0.7)."""
    chosen, rejected, zero = torch.tensor([0.7]), torch.tensor([0.0]), torch.tensor([0.0])
    for certainty, expected in ((1.0, 0.403186), (0.8, 0.543186), (0.5, 0.753186)):
        loss, _ = losses.dpo_loss(chosen, rejected, zero, zero, beta=1.0, certainties=torch.tensor([certainty]))
        assert loss.item() == pytest.approx(expected, abs=1e-5)
    label = torch.tensor([0.8])
    smooth, _ = losses.dpo_loss(chosen, rejected, zero, zero, beta=1.0, certainties=label, label_smoothing=0.1)
    assert smooth.item() == pytest.approx(0.403186 + 0.7 * 0.26, abs=1e-5)  # 0.2 · 0.9 + 0.8 · 0.1 on the other side


Loss = Callable[[torch.Tensor], torch.Tensor]


def of_pairs(**how: Any) -> Loss:
    """DPO's, of three pairs, in the chosen replies' log-probabilities and then the rejected ones'."""
    anchor = doubles(-10.5, -7.0, -4.0), doubles(-11.0, -8.5, -3.0)
    return lambda one: losses.dpo_loss(one[:3], one[3:], anchor[0], anchor[1], beta=0.6, **how)[0]


def of_rankings(log_probs: torch.Tensor) -> torch.Tensor:
    """The listwise one, of two replies to one prompt and three to another, of which one is never to be said."""
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.6, 0.0, 0.4]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    return losses.listwise_loss(log_probs.reshape(2, 3), torch.zeros(2, 3), targets, mask)[0]


def of_replies(log_probs: torch.Tensor) -> torch.Tensor:
    """SFT's, of two replies of three tokens and one, by weight."""
    mask = torch.tensor([[True, True, True], [False, True, False]])
    return losses.sft_loss(log_probs.reshape(2, 3), mask, doubles(0.5, 2.0))[0]


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(of_replies, id="sft"),
        pytest.param(of_pairs(), id="dpo"),
        pytest.param(of_pairs(label_smoothing=0.2), id="dpo, conservative"),
        pytest.param(of_pairs(ties=torch.tensor([False, True, False])), id="dpo, tied"),
        pytest.param(of_pairs(margins=doubles(1.0, 2.5, 0.4)), id="dpo, with margins"),
        pytest.param(of_pairs(certainties=doubles(1.0, 0.8, 0.55)), id="dpo, soft labels"),
        pytest.param(
            of_pairs(
                label_smoothing=0.1, ties=torch.tensor([True, False, False]), margins=doubles(3.0, 2.0, 1.0),
                certainties=doubles(0.9, 0.7, 1.0), weights=doubles(0.3, 1.0, 2.0),
            ),
            id="dpo, all at once",
        ),
        pytest.param(of_rankings, id="listwise"),
    ],
)  # fmt: skip
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    log_probs = doubles(-10.0, -8.0, -3.0, -9.0, -7.5, -6.0).requires_grad_()
    assert torch.autograd.gradcheck(loss, (log_probs,))
    (slopes,) = torch.autograd.grad(loss(log_probs), log_probs)
    assert (slopes != 0).sum() > 2
