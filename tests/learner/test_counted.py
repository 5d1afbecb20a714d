"""Counts read as people say them."""

from __future__ import annotations

import pytest

from learner.counted import counted


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 pairs, 0 replies"), (1, "1 pair, 1 reply"), (2, "2 pairs, 2 replies")]
)
def test_one_is_singular_and_all_else_plural(count: int, said: str) -> None:
    assert f"{counted(count, 'pair')}, {counted(count, 'reply', 'replies')}" == said
