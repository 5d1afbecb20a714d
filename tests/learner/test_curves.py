"""A run's picture shows every metric of every phase, and is there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from learner.curves import draw


def line(phase: str, step: int, **values: Any) -> dict[str, Any]:
    return {"phase": phase, "step": step, "steps": 3, **values}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **how: Any) -> None:
        figures.append(figure)
        save(figure, *args, **how)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_every_metric_has_a_picture_with_its_unit_and_every_phase_its_own_rows(
    drawn: list[Figure], tmp_path: Path
) -> None:
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


def test_a_metric_has_the_unit_that_it_has_in_its_phase(drawn: list[Figure], tmp_path: Path) -> None:
    metrics = [line("dpo", 1, kl=0.1, loss=0.7), line("ppo", 1, kl=0.1, kl_per_token=0.01, loss=-0.2, kl_coefficient=1)]
    draw(metrics, tmp_path / "curves.png")
    units = {axes.get_title(): axes.get_ylabel() for axes in drawn[0].axes if axes.axison}
    assert units == {
        "dpo: kl": "nats / token",
        "dpo: loss": "nats",
        "ppo: kl": "nats / reply",
        "ppo: kl per token": "nats / token",
        "ppo: loss": "",
        "ppo: kl coefficient": "",
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_steps_are_whole_numbers(steps: int, drawn: list[Figure], tmp_path: Path) -> None:
    draw([line("sft", step, nll=1 / step) for step in range(1, steps + 1)], tmp_path / "curves.png")
    low, high = drawn[0].axes[0].get_xlim()
    shown = [tick for tick in drawn[0].axes[0].get_xticks() if low <= tick <= high]
    assert shown and all(tick == round(tick) for tick in shown)


def test_a_loss_that_is_one_term_alone_is_drawn_once(drawn: list[Figure], tmp_path: Path) -> None:
    metrics = [line("dpo", step, dpo=0.7 / step, loss=0.7000001 / step) for step in (1, 2)]
    metrics += [line("sft", step, nll=0.7 / step, retention_kl=0.1, loss=0.8 / step, skipped=0) for step in (1, 2)]
    draw(metrics, tmp_path / "curves.png")
    titles = [axes.get_title() for axes in drawn[0].axes if axes.axison]
    assert titles == ["dpo: loss", "sft: nll", "sft: retention kl", "sft: loss", "sft: skipped"]
