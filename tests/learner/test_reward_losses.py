"""Losses of reward models, against sums worked out one number after the other in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.reward_losses import (
    binary_reward_loss,
    ensemble,
    fit_temperature,
    pairwise_reward_loss,
    rank_correlation,
    regression_reward_loss,
)


def numbers(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_a_pair_costs_the_surprise_that_the_better_one_won() -> None:
    chosen, rejected = numbers(1), numbers(2)
    loss, metrics = pairwise_reward_loss(chosen, rejected)
    each = [-log_sigmoid(float(c - r)) for c, r in zip(chosen, rejected, strict=True)]
    assert float(loss) == pytest.approx(sum(each) / 6, abs=1e-12)
    assert metrics["reward_loss"] == float(loss)
    assert metrics["reward_accuracy"] == pytest.approx(float((chosen > rejected).double().mean()), abs=1e-6)
    assert metrics["reward_margin"] == pytest.approx((sum(chosen.tolist()) - sum(rejected.tolist())) / 6, abs=1e-12)
    assert metrics["mean_reward"] == pytest.approx((sum(chosen.tolist()) + sum(rejected.tolist())) / 12, abs=1e-12)


def test_margins_smoothing_ties_and_weights() -> None:
    chosen, rejected, margins = numbers(1), numbers(2), numbers(3).abs()
    ties = torch.tensor([False, True, False, False, True, False])
    weights = numbers(4).abs()
    loss, metrics = pairwise_reward_loss(
        chosen, rejected, margins=margins, ties=ties, label_smoothing=0.1, weights=weights, centring=0.01
    )
    total = 0.0
    for c, r, m, tie, w in zip(chosen, rejected, margins, ties, weights, strict=True):
        x = float(c - r) - (0.0 if tie else float(m))
        target = 0.5 if tie else 0.9
        cost = -target * log_sigmoid(x) - (1 - target) * log_sigmoid(-x) + 0.01 * float(c + r) ** 2
        total += float(w) * cost
    assert float(loss) == pytest.approx(total / float(weights.sum()), abs=1e-12)
    leads = (chosen - rejected)[~ties]
    assert metrics["reward_margin"] == pytest.approx(sum(leads.tolist()) / 4, abs=1e-12)
    decided = (leads > 0).double().mean()
    assert metrics["reward_accuracy"] == pytest.approx(float(decided), abs=1e-6)


@given(st.integers(0, 2**31), st.permutations(range(6)))
def test_the_order_of_pairs_changes_nothing(seed: int, order: list[int]) -> None:
    chosen, rejected, margins, weights = (numbers(seed + one) for one in range(4))
    ties = numbers(seed + 4) > 0.5
    loss, metrics = pairwise_reward_loss(
        chosen, rejected, margins=margins, ties=ties, weights=weights.abs(), centring=0.1
    )
    other, others = pairwise_reward_loss(
        chosen[order], rejected[order], margins=margins[order], ties=ties[order],
        weights=weights.abs()[order], centring=0.1,
    )  # fmt: skip
    assert float(other) == pytest.approx(float(loss), abs=1e-12) and others == pytest.approx(metrics, abs=1e-6)


def test_a_margin_is_the_lead_that_is_asked_for() -> None:
    one, three = torch.tensor([1.0]), torch.tensor([3.0])
    assert float(pairwise_reward_loss(three, one, margins=torch.tensor([2.0]))[0]) == pytest.approx(math.log(2))


def test_ties_alone_have_neither_accuracy_nor_margin() -> None:
    loss, metrics = pairwise_reward_loss(numbers(1), numbers(2), ties=torch.ones(6).bool())
    assert metrics["reward_accuracy"] == metrics["reward_margin"] == 0 and float(loss) > math.log(2)


def test_a_tie_is_content_with_equal_rewards() -> None:
    equal = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss, _ = pairwise_reward_loss(equal, equal.detach(), ties=torch.tensor([True]), margins=torch.tensor([4.0]))
    loss.backward()
    assert equal.grad is not None and float(equal.grad) == 0 and float(loss.detach()) == pytest.approx(math.log(2))


def test_labels_are_logistic_regression() -> None:
    rewards, good = numbers(1), torch.tensor([True, False, True, True, False, False])
    weights = numbers(2).abs()
    total = 0.0
    for r, is_good, w in zip(rewards, good, weights, strict=True):
        target = 0.95 if is_good else 0.05
        total += float(w) * (-target * log_sigmoid(float(r)) - (1 - target) * log_sigmoid(-float(r)))
    loss, metrics = binary_reward_loss(rewards, good, weights=weights, label_smoothing=0.05)
    assert float(loss) == pytest.approx(total / float(weights.sum()), abs=1e-12)
    right = [(r > 0) == is_good for r, is_good in zip(rewards.tolist(), good.tolist(), strict=True)]
    assert metrics == {"label_loss": float(loss), "label_accuracy": pytest.approx(sum(right) / 6, abs=1e-6)}


def test_a_score_costs_the_square_of_its_distance_and_one_far_away_a_straight_line() -> None:
    # off by 0.5, -1, 2, -5 and 50 spreads; 1.345² / 2 = 0.9045125
    rewards = torch.tensor([1.0, 0.0, 4.0, -10.0, 100.0], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    each = [0.125, 0.5, 1.345 * 2 - 0.9045125, 1.345 * 5 - 0.9045125, 1.345 * 50 - 0.9045125]
    loss, metrics = regression_reward_loss(rewards, targets, spread=2.0)
    assert loss.item() == pytest.approx(sum(each) / 5, abs=1e-12)
    assert metrics == {"score_loss": loss.item(), "score_outliers": pytest.approx(0.6, abs=1e-6)}
    loss.backward()
    assert rewards.grad is not None  # in nats per unit of reward, a fifth of each reply's own
    assert (10 * rewards.grad).tolist() == pytest.approx([0.5, -1.0, 1.345, -1.345, 1.345], abs=1e-12)
    weights = torch.tensor([1.0, 0.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    weighed, _ = regression_reward_loss(rewards.detach(), targets, spread=2.0, weights=weights)
    assert float(weighed) == pytest.approx((each[0] + 2 * each[2] + 3 * each[3]) / 6, abs=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    chosen, rejected = numbers(1).requires_grad_(), numbers(2).requires_grad_()
    ties = torch.tensor([False, True, False, False, False, True])
    assert torch.autograd.gradcheck(
        lambda one, other: pairwise_reward_loss(
            one, other, ties=ties, label_smoothing=0.1, centring=0.01, margins=numbers(3)
        )[0],
        (chosen, rejected),
    )
    good = torch.tensor([True, False, True, True, False, False])
    assert torch.autograd.gradcheck(lambda one: binary_reward_loss(one, good, label_smoothing=0.1)[0], chosen)
    off = (chosen - numbers(4)).abs() / 0.7
    assert (off > 1.345).any() and (off < 1.345).any()  # both branches
    assert torch.autograd.gradcheck(
        lambda one: regression_reward_loss(one, numbers(4), spread=0.7, weights=numbers(5).abs())[0], chosen
    )


def test_nothing_to_learn_from_costs_nothing() -> None:
    none = torch.zeros(0)
    assert float(pairwise_reward_loss(none, none, ties=none.bool())[0]) == 0
    assert float(binary_reward_loss(none, none.bool())[0]) == 0
    assert float(regression_reward_loss(none, none)[0]) == 0
    one, nought = torch.ones(1), torch.zeros(1)
    assert float(pairwise_reward_loss(one, nought, weights=nought)[0]) == 0
    assert float(binary_reward_loss(one, one.bool(), weights=nought)[0]) == 0


def test_a_rank_correlation_is_that_of_ranks_with_ties_in_the_middle_of_theirs() -> None:
    rising = torch.tensor([0.1, 5.0, 5.1, 900.0])
    assert rank_correlation(rising, rising.log()) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, sums of squares 4.5 and 5
    assert rank_correlation(torch.tensor([1.0, 2.0, 2.0, 3.0]), rising) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation(torch.ones(4), rising) is None
    assert rank_correlation(rising[:1], rising[:1]) is None and rank_correlation(rising[:0], rising[:0]) is None


def test_an_ensembles_members_agree_or_do_not() -> None:
    mean, disagreement = ensemble(torch.tensor([[1.0, 2.0], [1.0, 6.0]]))
    assert mean.tolist() == [1.0, 4.0] and disagreement.tolist() == pytest.approx([0.0, math.sqrt(8.0)])
    assert ensemble(torch.tensor([[1.0, 2.0]]))[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("temperature", [0.06, 0.2, 1.0, 3.0, 500.0])
def test_the_temperature_of_over_and_underconfident_rewards_is_found(temperature: float) -> None:
    truth = numbers(0)
    assert fit_temperature(truth * temperature, torch.sigmoid(truth)) == pytest.approx(temperature, rel=1e-9)


def test_scores_have_a_say_in_the_temperature() -> None:
    nothing = torch.zeros(0)
    foretold, scores = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])  # best at 1 / T = 2 * 1 / (4 + 1)
    assert fit_temperature(nothing, nothing, foretold, scores) == pytest.approx(2.5)
    logits, sure = torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0])  # which by themselves ask for no end of it
    assert fit_temperature(logits, sure) < 0.1
    assert 0.1 < fit_temperature(logits, sure, foretold, scores) < 2.5
    assert fit_temperature(nothing, nothing, torch.zeros(2), scores) == 1.0


def test_a_wild_score_has_no_more_say_in_the_temperature_than_one_that_is_off() -> None:
    nothing, foretold = torch.zeros(0), torch.tensor([1.0, 1.0, 1.0])
    # without the last, best at 1 / T = 1; with it where 2 (1 / T - 1) = 1.345, however far away it is
    for wild in (10.0, 1000.0):
        found = fit_temperature(nothing, nothing, foretold, torch.tensor([1.0, 1.0, wild]))
        assert found == pytest.approx(1 / (1 + 1.345 / 2))


def test_the_temperature_of_judgements_that_differ_is_that_of_their_share() -> None:
    # log-odds of 4 every time, and right three times in four, which is log-odds of log 3
    found = fit_temperature(torch.full((4,), 4.0), torch.tensor([1, 1, 0, 1]))
    assert found == pytest.approx(4 / math.log(3), rel=1e-9)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=12))
def test_no_other_temperature_foretells_better(judged: list[tuple[float, float]]) -> None:
    logits, targets = torch.tensor(judged, dtype=torch.float64).T
    found = fit_temperature(logits, targets)

    def cost(temperature: float) -> float:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits / temperature, targets))

    for other in (0.06, 0.3, 1.0, 5.0, 100.0):
        assert cost(found) <= cost(other) + 1e-9


def test_where_all_is_foretold_right_or_nothing_is_said_the_temperature_is_bounded() -> None:
    assert fit_temperature(torch.tensor([3.0, 4.0]), torch.ones(2)) == pytest.approx(1 / 20, rel=1e-6)
    assert fit_temperature(torch.tensor([3.0, 4.0]), torch.zeros(2)) == pytest.approx(1000, rel=1e-3)
    assert fit_temperature(torch.zeros(0), torch.zeros(0)) == fit_temperature(torch.zeros(3), torch.ones(3)) == 1.0


def test_a_soft_label_costs_as_much_of_either_side() -> None:
    loss, _ = pairwise_reward_loss(torch.tensor([0.7]), torch.tensor([0.0]), certainties=torch.tensor([0.8]))
    assert loss.item() == pytest.approx(0.543186, abs=1e-5)  # -0.8 log σ(0.7) - 0.2 log σ(-0.7)
