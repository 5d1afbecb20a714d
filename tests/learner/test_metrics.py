"""A line of metrics for every step, whatever was repeated; and a disk that is full takes lines, not a training."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from learner.metrics import Metrics, read_metrics


@contextmanager
def full_above(size: int) -> Iterator[None]:
    """As a full disk does, the kernel writes what fits of a file of this process, and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def steps(path: Path) -> list[tuple[str, int, float]]:
    return [(line["phase"], line["step"], line["loss"]) for line in read_metrics(path)]


def test_metrics_of_repeated_steps_are_replaced_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Metrics(path)
    for step in (1, 2, 3):
        first.add("dpo", step, 4, {"loss": float(step)})
    with path.open("a") as file:
        file.write('{"step": 4, "phas')
    second = Metrics(path)
    for step in (3, 4):
        second.add("dpo", step, 4, {"loss": 10.0 * step})
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_what_a_full_disk_took_is_written_once_there_is_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.add("sft", 1, 4, {"loss": 1.0})
    with full_above(path.stat().st_size + 20):  # a part of a line fits
        metrics.add("sft", 2, 4, {"loss": 2.0})
        metrics.add("sft", 3, 4, {"loss": 3.0})
    assert steps(path) == [("sft", 1, 1.0)] and path.read_text().endswith("}\n")
    metrics.add("sft", 4, 4, {"loss": 4.0})
    assert steps(path) == [("sft", step, float(step)) for step in (1, 2, 3, 4)]
    (said,) = caplog.messages
    assert f"{path} can't be written" in said and "The training goes on" in said


def test_an_attempt_that_begins_on_a_full_disk_drops_what_it_repeats_as_soon_as_it_can(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Metrics(path)
    for step in (1, 2, 3):
        first.add("dpo", step, 4, {"loss": float(step)})
    again = Metrics(path)
    with full_above(30):
        again.add("dpo", 2, 4, {"loss": 20.0})
        again.add("sft again", 1, 1, {"loss": 0.5})
    assert steps(path) == [("dpo", 1, 1.0), ("dpo", 2, 2.0), ("dpo", 3, 3.0)]  # whole, as it was
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    again.write()
    assert steps(path) == [("dpo", 1, 1.0), ("dpo", 2, 20.0), ("sft again", 1, 0.5)]
    again.write()
    assert len(steps(path)) == 3
