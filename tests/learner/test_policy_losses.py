"""The losses of policy and value, against sums worked out one number after the other in float64."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.policy_losses import (
    entropy,
    gae,
    kl_estimates,
    ppo_policy_loss,
    ppo_value_loss,
    token_rewards,
    truncated_importance,
    whiten,
)
from tests.learner.masked_numbers import MASK, numbers, places, spoiled


def clipped_by_hand(policy: Tensor, old: Tensor, advantages: Tensor, clip: float) -> dict[tuple[int, int], float]:
    found = {}
    for row, column in places():
        ratio = math.exp(float(policy[row, column] - old[row, column]))
        advantage = float(advantages[row, column])
        found[row, column] = -min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
    return found


def test_the_policy_loss_is_the_clipped_surrogate() -> None:
    policy, old, advantages = numbers(1), numbers(2), numbers(3)
    each = clipped_by_hand(policy, old, advantages, 0.2)
    loss, metrics = ppo_policy_loss(spoiled(policy), spoiled(old), spoiled(advantages), MASK, clip=0.2)
    assert float(loss) == pytest.approx(sum(each.values()) / len(each), abs=1e-10)
    log_ratios = {place: float(policy[place] - old[place]) for place in each}
    stopped = [
        log_ratio > math.log(1.2) if advantages[place] > 0 else log_ratio < math.log(0.8)
        for place, log_ratio in log_ratios.items()
    ]
    assert 0 < sum(stopped) < len(stopped)
    assert metrics == pytest.approx(
        {
            "policy_loss": float(loss),
            "clip_fraction": sum(stopped) / len(stopped),
            "approximate_kl": sum(log_ratio**2 / 2 for log_ratio in log_ratios.values()) / len(each),
            "ratio": sum(math.exp(log_ratio) for log_ratio in log_ratios.values()) / len(each),
        },
        abs=1e-6,
    )
    of_rows = [[value for (row, _), value in each.items() if row == one] for one in range(3)]
    loss, _ = ppo_policy_loss(policy, old, advantages, MASK, clip=0.2, per_sequence=True)
    assert float(loss) == pytest.approx(sum(sum(row) / len(row) for row in of_rows) / 3, abs=1e-10)


def test_importance_weighs_each_token_and_entropy_is_a_bonus() -> None:
    policy, old, advantages, weights, entropies = (numbers(seed) for seed in range(1, 6))
    weights, entropies = weights.abs(), entropies.abs()
    each = clipped_by_hand(policy, old, advantages, 0.2)
    loss, metrics = ppo_policy_loss(
        policy, old, advantages, MASK, importance=spoiled(weights), entropy=spoiled(entropies), entropy_coefficient=0.1
    )
    bonus = sum(float(entropies[place]) for place in each) / len(each)
    expected = sum(float(weights[place]) * value for place, value in each.items()) / len(each) - 0.1 * bonus
    assert float(loss) == pytest.approx(expected, abs=1e-10) and metrics["entropy"] == pytest.approx(bonus, abs=1e-10)
    _, metrics = ppo_policy_loss(policy, old, advantages, MASK, entropy=entropies, per_sequence=True)
    of_rows = [[float(entropies[place]) for place in each if place[0] == row] for row in range(3)]
    assert metrics["entropy"] == pytest.approx(sum(sum(row) / len(row) for row in of_rows) / 3, abs=1e-10)


def test_a_policy_that_has_not_moved_pays_its_mean_advantage_and_is_not_clipped() -> None:
    policy, advantages = numbers(1), numbers(3)
    loss, metrics = ppo_policy_loss(policy, policy, advantages, MASK)
    assert float(loss) == pytest.approx(-sum(float(advantages[place]) for place in places()) / 8, abs=1e-12)
    assert metrics == {"policy_loss": float(loss), "clip_fraction": 0, "approximate_kl": 0, "ratio": 1}


def test_the_clip_stops_only_tokens_that_went_far_enough_the_right_way() -> None:
    policy = torch.tensor([[0.5, -0.5, 0.5, -0.5, 0.1]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, -1.0, 1.0, 1.0]])
    ppo_policy_loss(policy, torch.zeros(1, 5), advantages, torch.ones(1, 5).bool())[0].backward()
    assert policy.grad is not None
    expected = [0.0, 0.0, math.exp(0.5) / 5, -math.exp(-0.5) / 5, -math.exp(0.1) / 5]
    assert policy.grad[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_value_loss_takes_the_larger_of_plain_and_clipped() -> None:
    values, old, returns = numbers(1), numbers(2), numbers(3)
    total, clipped = 0.0, 0
    for place in places():
        v, o, r = float(values[place]), float(old[place]), float(returns[place])
        kept = min(max(v, o - 0.2), o + 0.2)
        total += max((v - r) ** 2, (kept - r) ** 2)
        clipped += (kept - r) ** 2 > (v - r) ** 2
    loss, metrics = ppo_value_loss(spoiled(values), spoiled(old), spoiled(returns), MASK, clip=0.2)
    assert float(loss) == pytest.approx(0.5 * total / len(places()), abs=1e-10)
    explained = 1 - float((returns - values)[MASK].var() / returns[MASK].var())
    assert 0 < clipped < len(places())
    assert metrics == pytest.approx(
        {
            "value_loss": float(loss),
            "value_clip_fraction": clipped / len(places()),
            "explained_variance": explained,
        },
        abs=1e-6,
    )


def test_returns_that_are_all_the_same_leave_no_variance_to_explain() -> None:
    same, mask = torch.full((1, 7), 0.1), torch.ones(1, 7).bool()
    assert (same - same.mean()).any()  # by as little as a float32 mean is off
    assert ppo_value_loss(numbers(1, same).float(), same, same, mask)[1]["explained_variance"] == 0


def test_gradients_are_those_of_finite_differences() -> None:
    old, advantages = numbers(2), numbers(3)
    policy = (old + 0.05 * numbers(1)).requires_grad_()  # within the clip, where the loss is smooth
    assert torch.autograd.gradcheck(lambda one: ppo_policy_loss(one, old, advantages, MASK)[0], policy)
    assert torch.autograd.gradcheck(lambda one: ppo_value_loss(one, old, advantages, MASK, clip=5.0)[0], policy)
    assert torch.autograd.gradcheck(lambda one: kl_estimates(one, old)[2], policy)
    assert torch.autograd.gradcheck(lambda one: whiten(one, MASK), policy)
    farther = numbers(1).requires_grad_()  # on both sides of the clip, and nowhere near where it begins
    assert ((farther - old).exp()[MASK] - 1).abs().sub(0.2).abs().min() > 1e-3
    assert torch.autograd.gradcheck(
        lambda one, entropies: ppo_policy_loss(
            one, old, advantages, MASK, importance=numbers(4).abs(), entropy=entropies, entropy_coefficient=0.1,
            per_sequence=True,
        )[0],
        (farther, numbers(5).requires_grad_()),
    )  # fmt: skip
    assert ((farther - old)[MASK].abs() - 0.2).abs().min() > 1e-3
    assert torch.autograd.gradcheck(lambda one: ppo_value_loss(one, old, advantages, MASK)[0], farther)


def test_what_stands_outside_the_mask_has_no_gradient() -> None:
    policy, values, entropies, unwhitened = (spoiled(numbers(seed)).requires_grad_() for seed in range(1, 5))
    old, advantages, returns = (spoiled(numbers(seed)) for seed in range(5, 8))
    weights = spoiled(numbers(8)).requires_grad_()
    loss, _ = ppo_policy_loss(
        policy, old, advantages, MASK, importance=weights, entropy=entropies, entropy_coefficient=0.1
    )
    (loss + ppo_value_loss(values, old, returns, MASK)[0] + (whiten(unwhitened, MASK) ** 3).sum()).backward()
    for gradient in (policy.grad, values.grad, entropies.grad, unwhitened.grad):
        assert gradient is not None and not gradient[~MASK].any()
        assert gradient[MASK].isfinite().all() and gradient[MASK].any()
    assert weights.grad is None  # a constant, whoever made it


def test_an_empty_mask_costs_nothing_whatever_stands_there() -> None:
    nothing = torch.zeros_like(MASK)
    worthless = spoiled(numbers(1), nothing).requires_grad_()
    for per_sequence in (False, True):
        loss, metrics = ppo_policy_loss(
            worthless, worthless, worthless, nothing, importance=worthless, entropy=worthless,
            entropy_coefficient=0.1, per_sequence=per_sequence,
        )  # fmt: skip
        assert loss.item() == 0 and not any(metrics.values())
        loss.backward()
    loss, metrics = ppo_value_loss(worthless, worthless, worthless, nothing)
    assert loss.item() == 0 and not any(metrics.values())
    loss.backward()
    assert worthless.grad is not None and not worthless.grad.any()
    for empty in (*gae(worthless, worthless, nothing), whiten(worthless, nothing)):
        assert not empty.any()
    assert not token_rewards(torch.ones(4), worthless, worthless, nothing, 0.1).any()


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(0, 4))
def test_more_padding_and_rows_without_a_reply_change_nothing(seed: int, rows: int, padding: int) -> None:
    rng = Random(seed)
    width = 6
    mask = torch.zeros(rows, width).bool()
    for row in range(rows):
        start = rng.randrange(width)
        mask[row, start : rng.randint(start, width)] = True
    one, two, three = (numbers(seed + extra, mask) for extra in range(3))

    def wider(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, padding, 0, 1))

    more = wider(one), wider(two), wider(three), wider(mask)
    for per_sequence in (False, True):
        torch.testing.assert_close(
            ppo_policy_loss(one, two, three, mask, per_sequence=per_sequence),
            ppo_policy_loss(*more, per_sequence=per_sequence),
        )
    torch.testing.assert_close(ppo_value_loss(one, two, three, mask), ppo_value_loss(*more))
    for narrow, wide in zip(gae(one, two, mask), gae(more[0], more[1], more[3]), strict=True):
        torch.testing.assert_close(wider(narrow), wide)
    torch.testing.assert_close(wider(whiten(one, mask)), whiten(more[0], more[3]))


@given(st.integers(0, 2**31), st.permutations(range(4)))
def test_the_order_of_rows_changes_nothing(seed: int, order: list[int]) -> None:
    one, two, three = (numbers(seed + extra) for extra in range(3))
    other, mask = (one[order], two[order], three[order]), MASK[order]
    for per_sequence in (False, True):
        torch.testing.assert_close(
            ppo_policy_loss(one, two, three, MASK, per_sequence=per_sequence),
            ppo_policy_loss(*other, mask, per_sequence=per_sequence),
        )
    torch.testing.assert_close(ppo_value_loss(one, two, three, MASK), ppo_value_loss(*other, mask))
    torch.testing.assert_close(whiten(one, MASK)[order], whiten(other[0], mask))
    for inward, outward in zip(gae(one, two, MASK), gae(other[0], other[1], mask), strict=True):
        torch.testing.assert_close(inward[order], outward)
    scores = one[:, 0]
    torch.testing.assert_close(
        token_rewards(scores, two, three, MASK, 0.1)[order], token_rewards(scores[order], *other[1:], mask, 0.1)
    )


def test_no_token_at_all_costs_nothing() -> None:
    nothing, mask = torch.zeros(0, 0), torch.zeros(0, 0).bool()
    assert float(ppo_policy_loss(nothing, nothing, nothing, mask)[0]) == 0
    assert float(ppo_value_loss(nothing, nothing, nothing, mask)[0]) == 0
    assert gae(nothing, nothing, mask)[0].shape == (0, 0)


def test_importance_is_truncated_and_constant() -> None:
    trainer = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    weights = truncated_importance(trainer, torch.zeros(3), cap=2.0)
    assert weights.tolist() == pytest.approx([1.0, 2.0, math.exp(-1)]) and not weights.requires_grad


def test_entropy_is_that_of_the_distribution() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits.double(), -1)
    torch.testing.assert_close(entropy(logits), -(p * p.log()).sum(-1).float())
    assert float(entropy(torch.zeros(1, 8))) == pytest.approx(math.log(8))
    assert float(entropy(torch.tensor([[1e4, 0.0]]))) == 0


def test_tokens_that_are_ruled_out_have_no_part_in_the_entropy_nor_a_gradient() -> None:
    logits = torch.tensor([[0.3, -torch.inf, 1.1, -0.4]], requires_grad=True)
    found = entropy(logits)
    kept = [math.exp(one) for one in (0.3, 1.1, -0.4)]
    p = [one / sum(kept) for one in kept]
    expected = -sum(one * math.log(one) for one in p)
    assert found.tolist() == pytest.approx([expected], abs=1e-6)
    found.sum().backward()
    slope = [-one * (math.log(one) + expected) for one in p]
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([slope[0], 0.0, *slope[1:]], abs=1e-6)
