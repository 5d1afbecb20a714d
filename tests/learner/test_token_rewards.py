"""A reply's reward, token by token: its score, and what KL to the anchor costs."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.policy_losses import AdaptiveKl, RunningMoments, kl_estimates, token_rewards
from tests.learner.masked_numbers import MASK, numbers, places, spoiled


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


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_costs_what_the_chosen_estimate_says(estimator: Literal["k1", "k3"]) -> None:
    policy, anchor = numbers(1), numbers(2)
    rewards = token_rewards(torch.zeros(4), spoiled(policy), spoiled(anchor), MASK, 0.3, kl_estimator=estimator)
    for row, column in places():
        log_ratio = float(anchor[row, column] - policy[row, column])
        expected = {"k1": -log_ratio, "k3": math.exp(log_ratio) - 1 - log_ratio}[estimator]
        assert float(rewards[row, column]) == pytest.approx(-0.3 * expected, abs=1e-12)
    assert not rewards[~MASK].any()


def test_a_score_counts_once_even_where_tokens_in_between_do_not() -> None:
    mask = torch.tensor([[True, False, True, True, False]])
    zero = torch.zeros(1, 5)
    assert token_rewards(torch.tensor([7.0]), zero, zero, mask, 0.1).tolist() == [[0.0, 0.0, 0.0, 7.0, 0.0]]


def test_the_coefficient_follows_the_target() -> None:
    controller = AdaptiveKl(0.1, target=2.0, horizon=100)
    assert controller.update(2.0, 50) == pytest.approx(0.1)
    assert controller.update(2.2, 50) == pytest.approx(0.1 * 1.05)
    assert controller.update(100.0, 50) == pytest.approx(0.1 * 1.05 * 1.1)  # an error counts as 0.2 at most
    assert controller.update(0.0, 50) == pytest.approx(0.1 * 1.05 * 1.1 * 0.9)
    below = controller.update(0.0, 10_000)
    assert below == pytest.approx(0.1 * 1.05 * 1.1 * 0.9 / 2)  # never 0, from which no factor would raise it again
    assert controller.update(100.0, 50) == pytest.approx(below * 1.1)


@given(st.lists(st.lists(st.floats(-100, 100), max_size=5), max_size=6))
def test_running_moments_are_those_of_all_numbers(batches: list[list[float]]) -> None:
    moments = RunningMoments()
    for batch in batches:
        moments = RunningMoments.from_json(moments.to_json())
        moments.update(torch.tensor(batch, dtype=torch.float64))
    every = torch.tensor([one for batch in batches for one in batch], dtype=torch.float64)
    assert moments.mean == pytest.approx(float(every.mean()) if len(every) else 0.0, abs=1e-9)
    assert moments.std == pytest.approx(float(every.std()) if len(every) > 1 else 1.0, abs=1e-6)
