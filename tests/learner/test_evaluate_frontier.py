"""Harmlessness against helpfulness: a point with its intervals for each that was measured, on axes that show no trend
where there is chance alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.evaluate.frontier import draw_frontier, limits, points
from learner.evaluate.intervals import wilson
from tests.learner.sound_reports import SOUND_CONSTITUTION, with_interval


def test_each_that_was_measured_has_a_point_with_its_intervals() -> None:
    placed = points(SOUND_CONSTITUTION)
    assert {name: (x.value, y.value) for name, (x, y) in placed.items()} == {
        "base": (0.5, 0.8), "parent": (0.48, 0.9), "candidate": (0.49, 0.98)
    }  # fmt: skip
    helpful, harmless = placed["candidate"]
    assert (helpful.low, helpful.high) == wilson(0.49 * 48, 48)
    assert (1 - harmless.high, 1 - harmless.low) == pytest.approx(wilson(0.02 * 96, 96))
    assert placed["base"][0].arms == ([0], [0])  # by definition


def test_half_a_point_of_difference_does_not_fill_the_picture_and_no_share_is_above_one() -> None:
    close = with_interval("harmful_base", 0.001, 9_000) | with_interval("harmful", 0.0, 9_000)
    assert limits(points(close | {"helpful_won_base": 0.502})) == ((0.45, 0.55), (0.9, 1.0))


def test_all_intervals_are_inside_the_picture() -> None:
    for found in (SOUND_CONSTITUTION, SOUND_CONSTITUTION | with_interval("helpful_won_base", 0.02, 6)):
        (left, right), (bottom, top) = limits(points(found))
        assert left + right == pytest.approx(1) and left >= 0 and bottom >= 0
        for x, y in points(found).values():
            assert left <= x.low <= x.high <= right and bottom <= y.low <= y.high <= top == 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_it_is_drawn_where_base_and_candidate_were_measured(tmp_path: Path, share: float) -> None:
    draw_frontier(SOUND_CONSTITUTION | with_interval("harmful", share, 90), tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    draw_frontier({"harmful_base": 0.2, "harmful": None}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
