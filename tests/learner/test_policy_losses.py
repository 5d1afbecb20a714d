"""The arithmetic of policy optimisation, against sums worked out one number after the other in float64."""

from __future__ import annotations

import math
from random import Random
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.policy_losses import (
    AdaptiveKl,
    RunningMoments,
    entropy,
    gae,
    grpo_advantages,
    kl_estimates,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_advantages,
    rloo_advantages,
    token_rewards,
    truncated_importance,
    whiten,
)

MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()


def numbers(seed: int = 0, like: Tensor = MASK) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places(mask: Tensor = MASK) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in mask.nonzero()]


def spoiled(values: Tensor, mask: Tensor = MASK) -> Tensor:
    """The same, with NaN and infinity outside the mask."""
    return torch.where(mask, values, torch.tensor([math.nan, math.inf] * 12).double().reshape(4, 6))


def test_the_estimates_of_kl_are_schulmans() -> None:
    policy, anchor = numbers(1), numbers(2)
    k1, k2, k3 = kl_estimates(policy, anchor)
    for row, column in places():
        p, q = float(policy[row, column]), float(anchor[row, column])
        assert float(k1[row, column]) == pytest.approx(p - q, abs=1e-12)
        assert float(k2[row, column]) == pytest.approx((p - q) ** 2 / 2, abs=1e-12)
        assert float(k3[row, column]) == pytest.approx(math.exp(q - p) - 1 - (q - p), abs=1e-12)


def test_k1_and_k3_are_right_on_the_average_and_k3_is_never_negative() -> None:
    logits, other = torch.randn(2, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64).log_softmax(-1)
    exact = float((logits.exp() * (logits - other)).sum())
    k1, _, k3 = kl_estimates(logits, other)
    assert float((logits.exp() * k1).sum()) == pytest.approx(exact, abs=1e-12)
    assert float((logits.exp() * k3).sum()) == pytest.approx(exact, abs=1e-12)
    assert (k3 >= 0).all()


def test_a_replys_score_stands_at_its_last_token_and_kl_costs_at_every_one() -> None:
    policy, anchor = numbers(1), numbers(2)
    scores = torch.tensor([7.0, -9.0, 2.0, 3.0], dtype=torch.float64)
    ended = torch.tensor([True, False, True, True])
    rewards = token_rewards(
        scores, spoiled(policy), spoiled(anchor), MASK, 0.3, ended=ended, missing_eos_penalty=0.5, clip=5.0
    )
    last = {0: 4, 1: 2, 2: 5}
    for row in range(4):
        for column in range(6):
            expected = 0.0
            if MASK[row, column]:
                expected = -0.3 * float(policy[row, column] - anchor[row, column])
                if last[row] == column:
                    expected += {0: 5.0, 1: -5.5, 2: 2.0}[row]
            assert float(rewards[row, column]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_costs_what_the_chosen_estimate_says(estimator: Literal["k1", "k2", "k3"]) -> None:
    policy, anchor = numbers(1), numbers(2)
    rewards = token_rewards(torch.zeros(4), spoiled(policy), spoiled(anchor), MASK, 0.3, kl_estimator=estimator)
    for row, column in places():
        log_ratio = float(anchor[row, column] - policy[row, column])
        expected = {"k1": -log_ratio, "k2": log_ratio**2 / 2, "k3": math.exp(log_ratio) - 1 - log_ratio}[estimator]
        assert float(rewards[row, column]) == pytest.approx(-0.3 * expected, abs=1e-12)
    assert not rewards[~MASK].any()


def test_a_score_counts_once_even_where_tokens_in_between_do_not() -> None:
    mask = torch.tensor([[True, False, True, True, False]])
    zero = torch.zeros(1, 5)
    assert token_rewards(torch.tensor([7.0]), zero, zero, mask, 0.1).tolist() == [[0.0, 0.0, 0.0, 7.0, 0.0]]


def test_rewards_and_advantages_carry_no_gradient() -> None:
    policy = numbers(1).requires_grad_()
    assert not token_rewards(torch.ones(4), policy, numbers(2), MASK, 0.3).requires_grad
    assert not any(one.requires_grad for one in gae(numbers(1), policy, MASK))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_the_discounted_sum_of_temporal_differences(gamma: float, lam: float) -> None:
    rewards, values = numbers(1), numbers(2)
    advantages, returns = gae(spoiled(rewards), spoiled(values), MASK, gamma=gamma, lam=lam)
    for row in range(4):
        own = [column for column in range(6) if MASK[row, column]]
        for at, column in enumerate(own):
            expected = 0.0
            for ahead, later in enumerate(own[at:]):
                following = own[at + ahead + 1 :]
                next_value = float(values[row, following[0]]) if following else 0.0
                delta = float(rewards[row, later]) + gamma * next_value - float(values[row, later])
                expected += (gamma * lam) ** ahead * delta
            assert float(advantages[row, column]) == pytest.approx(expected, abs=1e-10)
            assert float(returns[row, column]) == pytest.approx(expected + float(values[row, column]), abs=1e-10)
    assert not advantages[~MASK].any() and not returns[~MASK].any()


def test_with_lambda_one_returns_are_what_is_still_to_come() -> None:
    rewards = numbers(1)
    _, returns = gae(rewards, numbers(2), MASK, gamma=1.0, lam=1.0)
    for row, column in places():
        to_come = sum(float(rewards[row, later]) for later in range(column, 6) if MASK[row, later])
        assert float(returns[row, column]) == pytest.approx(to_come, abs=1e-10)


def test_a_reply_of_one_token_is_worth_its_reward() -> None:
    mask = torch.tensor([[False, True, False]])
    advantages, returns = gae(torch.full((1, 3), 5.0), torch.full((1, 3), 2.0), mask)
    assert advantages.tolist() == [[0.0, 3.0, 0.0]] and returns.tolist() == [[0.0, 5.0, 0.0]]
    old = torch.zeros(1, 3)
    for per_sequence in (False, True):
        assert float(ppo_policy_loss(old, old, advantages, mask, per_sequence=per_sequence)[0]) == -3


def test_whitened_numbers_have_mean_nought_and_variance_one() -> None:
    values = numbers(4) * 3 + 2
    white = whiten(spoiled(values), MASK)
    inside = white[MASK]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-9) and float(inside.var()) == pytest.approx(1, abs=1e-6)
    assert not white[~MASK].any()
    kept = whiten(values, MASK, shift_mean=False)[MASK]
    assert float(kept.mean()) == pytest.approx(float(values[MASK].mean()), abs=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_numbers_to_whiten_are_no_trouble(count: int) -> None:
    mask = torch.zeros(2, 3).bool()
    mask[0, :count] = True
    assert torch.equal(whiten(torch.full((2, 3), 5.0), mask), torch.zeros(2, 3))


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


def test_advantages_of_whole_replies() -> None:
    scores = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert reinforce_advantages(scores, 2.0).tolist() == [[-1.0, 0.0, 4.0], [-2.0, -2.0, 1.0]]
    torch.testing.assert_close(rloo_advantages(scores), torch.tensor([[-3.0, -1.5, 4.5], [-1.5, -1.5, 3.0]]))
    spread = [math.sqrt(7.0), math.sqrt(3.0)]
    expected = [[-2 / (spread[0] + 1e-4), -1 / (spread[0] + 1e-4), 3 / (spread[0] + 1e-4)],
                [-1 / (spread[1] + 1e-4), -1 / (spread[1] + 1e-4), 2 / (spread[1] + 1e-4)]]  # fmt: skip
    torch.testing.assert_close(grpo_advantages(scores), torch.tensor(expected))
    torch.testing.assert_close(grpo_advantages(scores, scale=False)[0], torch.tensor([-2.0, -1.0, 3.0]))
    assert not grpo_advantages(torch.full((1, 4), 5.0)).any()  # a group that agrees teaches nothing


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_replys_baseline_is_what_the_others_of_its_group_got(size: int) -> None:
    scores = numbers(1, torch.zeros(4, size))
    advantages = rloo_advantages(scores)
    for row in range(4):
        for own in range(size):
            others = [float(scores[row, other]) for other in range(size) if other != own]
            expected = float(scores[row, own]) - sum(others) / len(others)
            assert float(advantages[row, own]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("of_whole_replies", [rloo_advantages, grpo_advantages])
def test_a_group_of_one_is_refused(of_whole_replies: object) -> None:
    with pytest.raises(ValueError, match="at least two replies"):
        of_whole_replies(torch.ones(3, 1))  # type: ignore[operator]


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


def test_the_coefficient_follows_the_target() -> None:
    controller = AdaptiveKl(0.1, target=2.0, horizon=100)
    assert controller.update(2.0, 50) == pytest.approx(0.1)
    assert controller.update(2.2, 50) == pytest.approx(0.1 * 1.05)
    assert controller.update(100.0, 50) == pytest.approx(0.1 * 1.05 * 1.1)  # an error counts as 0.2 at most
    assert controller.update(0.0, 50) == pytest.approx(0.1 * 1.05 * 1.1 * 0.9)
    assert controller.update(0.0, 10_000) == 0.0


@given(st.lists(st.lists(st.floats(-100, 100), max_size=5), max_size=6))
def test_running_moments_are_those_of_all_numbers(batches: list[list[float]]) -> None:
    moments = RunningMoments()
    for batch in batches:
        moments = RunningMoments.from_json(moments.to_json())
        moments.update(torch.tensor(batch, dtype=torch.float64))
    every = torch.tensor([one for batch in batches for one in batch], dtype=torch.float64)
    assert moments.mean == pytest.approx(float(every.mean()) if len(every) else 0.0, abs=1e-9)
    assert moments.std == pytest.approx(float(every.std()) if len(every) > 1 else 1.0, abs=1e-6)
