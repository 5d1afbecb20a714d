from __future__ import annotations

import pytest

from ui.curves import CHARTS, curves, metric_names
from ui.figures import figures, gates


def lines(phase: str, count: int, **metrics: float) -> list[dict[str, object]]:
    return [{"step": step, "steps": count, "phase": phase, **metrics} for step in range(1, count + 1)]


def test_the_telling_metrics_come_first_and_counters_are_none() -> None:
    metrics = lines("dpo", 2, zeta=1.0, loss=0.5, kl=0.1, seconds=3.0)
    assert metric_names(metrics) == ["loss", "kl", "zeta"]
    assert len(metric_names([{"step": 1, **{f"m{n}": n for n in range(20)}}])) == CHARTS


def test_there_is_no_figure_without_numbers() -> None:
    assert curves([], "run-1") is None
    assert curves([{"step": 1, "phase": "sft", "note": "hello", "done": True, "loss": None}], "run-1") is None


def test_phases_follow_one_another_on_one_axis_and_are_named_once() -> None:
    figure = curves(lines("sft", 3, loss=2.0, kl=0.1) + lines("dpo", 2, loss=1.0), "run-1")
    assert figure is not None
    drawn = [(trace.name, list(trace.x), trace.showlegend) for trace in figure.data]
    assert drawn == [("sft", [1, 2, 3], True), ("dpo", [4, 5], True), ("sft", [1, 2, 3], False)]
    assert figure.layout.title.text == "run-1" and figure.layout.showlegend


def test_a_single_point_can_be_seen() -> None:
    figure = curves(lines("sft", 1, loss=2.0), "run-1")
    assert figure is not None and figure.data[0].mode == "markers"


def test_a_report_reads_as_names_and_numbers() -> None:
    report = {
        "fluency": -0.0812,
        "share_won": {"value": 0.714, "low": 0.62, "high": 0.79, "decided": 98, "ties": 3},
        "mean_length": 8.25,
        "mean_length_base": 14.2,
        "new_metric": 3,
        "samples": [{"prompt": "x"}],
        "agreement": None,
        "gates": [],
        "attempt": 1,
    }
    found = {figure["name"]: figure for figure in figures(report)}
    assert list(found) == ["share_won", "fluency", "mean_length", "new_metric"]
    assert (found["share_won"]["value"], found["share_won"]["interval"]) == ("71.4 %", "62.0 to 79.0 %")
    assert found["fluency"]["value"] == "-0.081"
    assert (found["mean_length"]["value"], found["mean_length"]["base"]) == ("8.25", "14.2")
    assert found["new_metric"]["label"] == "New metric"


@pytest.mark.parametrize("share", [None, {"value": None, "low": None, "high": None}])
def test_a_share_that_was_not_decided_is_left_out(share: object) -> None:
    assert figures({"share_won": share}) == []


def test_gates_keep_their_reasons() -> None:
    report = {"gates": [{"name": "fluent", "passed": False, "reason": "Too odd."}, "garbage"]}
    assert gates(report) == [{"name": "fluent", "passed": False, "reason": "Too odd."}]
    assert gates({}) == []
