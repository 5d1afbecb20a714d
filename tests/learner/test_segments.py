"""Attention in blocks gives what torch's gives under the mask of each segment, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner import segments
from learner.segments import Segment, attend_segments

HEADS, KV_HEADS, DIM = 4, 2, 8
PARTS = st.lists(st.tuples(st.integers(1, 14), st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=3)


def under_masks(query: Tensor, key: Tensor, value: Tensor, scaling: float, row: list[Segment]) -> Tensor:
    """Of a row, (heads, T, D): every token's scores of all others, most of them hidden."""
    whole = [torch.ones(s.length, s.length).tril() if s.mask is None else s.mask.float() for s in row]
    key, value = (x.repeat_interleave(len(query) // len(key), 0) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, torch.block_diag(*whole).bool(), scale=scaling)


def check(rows: list[list[Segment]]) -> None:
    draws = torch.Generator().manual_seed(0)
    tokens = sum(segment.length for segment in rows[0])
    states = query, key, value = [
        torch.randn(len(rows), heads, tokens, DIM, generator=draws, requires_grad=True)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    found = attend_segments(query, key, value, 0.3, rows).transpose(1, 2)
    each = zip(query, key, value, rows, strict=True)
    expected = torch.stack([under_masks(q, k, v, 0.3, row) for q, k, v, row in each])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(found.shape, generator=draws)
    slopes = (torch.autograd.grad((x * weights).sum(), states) for x in (found, expected))
    for of_found, of_expected in zip(*slopes, strict=True):
        torch.testing.assert_close(of_found, of_expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kept", [segments.KEPT_KEYS, 6], ids=["shares kept", "shares computed again"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=PARTS)
def test_any_prompts_and_replies(
    monkeypatch: pytest.MonkeyPatch, kept: int, parts: list[tuple[int, list[int]]]
) -> None:
    monkeypatch.setattr(segments, "BLOCK", 4)
    monkeypatch.setattr(segments, "SHORT", 4)
    monkeypatch.setattr(segments, "KEPT_KEYS", kept)
    check([[Segment(prompt + sum(replies), tuple(replies)) for prompt, replies in parts]])


def test_rows_that_are_cut_differently() -> None:
    long = Segment(300, (130, 20, 1))
    check([[long, Segment(40)], [Segment(200), Segment(140, (10, 90))]])


def test_a_block_computes_no_score_that_it_does_not_see() -> None:
    """Beyond its own tokens, of which each sees those up to itself."""
    shared = Segment(512 + 4 * 128, (128,) * 4)
    assert sum(block.rows * block.keys for block in shared.blocks()) == 128 * 128 * (1 + 2 + 3 + 4) + 4 * 128 * 640
