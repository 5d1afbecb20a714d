"""Reductions and estimates, against numbers worked out by hand or by torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch

from learner import tensors


def test_token_log_probs_are_those_of_a_categorical_distribution() -> None:
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[0, 1, 2, 3], [6, 5, 4, 3], [1, 1, 1, 1]])
    expected = torch.distributions.Categorical(logits=logits).log_prob(tokens)
    torch.testing.assert_close(tensors.token_log_probs(logits, tokens), expected)


def test_token_log_probs_of_even_odds() -> None:
    assert tensors.token_log_probs(torch.zeros(1, 4), torch.tensor([2])).item() == pytest.approx(-math.log(4))


def test_the_mean_of_an_empty_mask_is_zero() -> None:
    values = torch.tensor([[1.0, 2.0], [float("nan"), 4.0]])
    assert tensors.masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)).item() == 0
    assert tensors.masked_mean(values, torch.tensor([[True, True], [False, False]]), 1).tolist() == [1.5, 0.0]
    assert tensors.masked_mean(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)).item() == 0


def test_what_is_masked_out_is_ignored_even_if_it_is_no_number() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf"), 5.0], requires_grad=True)
    mean = tensors.masked_mean(values, torch.tensor([True, False, False, True]))
    assert mean.item() == 3.0
    mean.backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.0, 0.5]


def test_divergence_from_the_top_tokens_is_exact_when_all_are_top_and_smaller_when_not() -> None:
    generator = torch.Generator().manual_seed(4)
    logits, logits_anchor = torch.randn(6, 9, generator=generator), torch.randn(6, 9, generator=generator)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits_anchor), torch.distributions.Categorical(logits=logits)
    )
    torch.testing.assert_close(tensors.kl_top(logits, *tensors.top_log_probs(logits_anchor, 50)), exact)
    part = tensors.kl_top(logits, *tensors.top_log_probs(logits_anchor, 3))
    assert (part <= exact + 1e-6).all()
    assert (part >= 0).all()
    same = tensors.kl_top(logits_anchor, *tensors.top_log_probs(logits_anchor, 3))
    torch.testing.assert_close(same, torch.zeros(6), atol=1e-6, rtol=0)
