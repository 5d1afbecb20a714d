"""A run's picture shows every metric of every phase, and is there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.curves import draw


def line(phase: str, step: int, **values: Any) -> dict[str, Any]:
    return {"phase": phase, "step": step, "steps": 3, **values}


def test_every_metric_has_a_picture_with_its_unit_and_every_phase_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **how: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **how)

    monkeypatch.setattr(Figure, "savefig", keep)
    metrics = [line("sft", step, nll=1 / step, scale=2.0, odd=None) for step in (1, 2, 3)]
    metrics += [line("dpo", step, kl=0.1 * step, bad=float("nan")) for step in (1, 2)]
    draw(metrics, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    shown = [axes for axes in drawn[0].axes if axes.axison]
    assert [axes.get_title() for axes in shown] == ["sft: nll", "sft: scale", "dpo: kl"]
    assert [axes.get_ylabel() for axes in shown] == ["nats / token", "", "nats / token"]
    assert {axes.get_xlabel() for axes in shown} == {"step"}
    assert drawn[0].axes.index(shown[2]) == 4  # the second phase begins a row


def test_without_metrics_nothing_is_drawn(tmp_path: Path) -> None:
    draw([], tmp_path / "curves.png")
    draw([line("evaluate", 1)], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
