"""Harmlessness against helpfulness: a point with its intervals for each that was measured, on axes that show no trend
where there is chance alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from learner.evaluate.frontier import SIDES, draw_frontier, limits, points
from learner.evaluate.intervals import wilson, with_interval
from tests.learner.sound_reports import SOUND_CONSTITUTION


def test_each_that_was_measured_has_a_point_with_its_intervals() -> None:
    placed = points(SOUND_CONSTITUTION)
    assert {name: (x.value, y.value) for name, (x, y) in placed.items()} == {
        "base": (0.5, 0.8), "parent": (0.48, 0.9), "candidate": (0.49, 0.98)
    }  # fmt: skip
    helpful, harmless = placed["candidate"]
    assert (helpful.low, helpful.high) == wilson(0.49 * 48, 48)
    assert (1 - harmless.high, 1 - harmless.low) == pytest.approx(wilson(0.02 * 48, 48))
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


def test_those_in_one_place_are_all_seen(tmp_path: Path) -> None:
    same = dict.fromkeys(("helpful_won_base", "helpful_won_parent_base"), 0.5)
    same |= dict.fromkeys(("harmful", "harmful_base", "harmful_parent"), 0.1)
    draw_frontier(same, tmp_path / "same.png")
    picture = imread(tmp_path / "same.png")[..., :3]  # (height, width, red green blue), each from 0 to 1
    inside = picture[: int(0.7 * len(picture))]  # without the legend
    for *_, colour, _ in SIDES.values():
        assert (abs(inside - to_rgb(colour)).max(axis=-1) < 0.02).sum() > 20, colour


@pytest.mark.parametrize("down", [0.1, 0.16, 0.19, 0.25, 0.4, 1.0])
def test_ticks_are_at_the_whole_percents_that_they_are_labelled_with(
    down: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("learner.evaluate.frontier.save_figure", lambda figure, *_: figures.append(figure))
    found = {"harmful_base": down / 1.1, "harmful": 0.0, "helpful_won_base": 0.5 + down / 2.2}
    draw_frontier(found, tmp_path / "none.png")
    (axes,) = figures[0].axes
    for axis in (axes.xaxis, axes.yaxis):
        told = [axis.get_major_formatter()(place) for place in axis.get_ticklocs()]
        assert [float(words.removesuffix(" %")) for words in told] == pytest.approx(100 * axis.get_ticklocs())
    pyplot.close(figures[0])
