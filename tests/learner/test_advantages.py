"""How much better than expected a token or a reply was, against sums worked out one number after the other."""

from __future__ import annotations

import math

import pytest
import torch

from learner.policy_losses import (
    gae,
    grpo_advantages,
    ppo_policy_loss,
    reinforce_advantages,
    rloo_advantages,
    token_rewards,
    whiten,
)
from tests.learner.masked_numbers import MASK, numbers, places, spoiled


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
