"""A run on a full disk, without its engine or without memory: it waits or is tried again, then fails in plain words."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learner import metrics
from learner.child import work
from learner.cycle import Cycle
from learner.metrics import read_metrics
from service.errors import EngineUnavailable, StoreError
from tests.learner.pretend_training import Pretender, adapters_of, cycle
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import give_back, lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "metrics.jsonl"), "can't read or write metrics.jsonl: No space left"),
        (StoreError("The database is full.", "Free some space."), "The database is full. Free some space."),
        (EngineUnavailable("The training waited 900 s for the engine."), "The training waited 900 s for the engine."),
        (torch.OutOfMemoryError("CUDA out of memory.\nMore."), "memory for the run (CUDA out of memory.). Set learner"),
        (MemoryError(), "There isn't enough memory for the run (MemoryError)."),
    ],
)
def test_what_may_pass_is_tried_again_and_then_fails_the_run_in_plain_words(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def full(self: Cycle) -> None:
        raise error

    monkeypatch.setattr(Cycle, "run", full)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests' own process keeps its SIGTERM
    home.correct("a", "bb")
    run_id = queue(home)
    for attempt in range(home.settings.learner.max_attempts):
        assert the_run(home, run_id).state in ("queued", "running")
        leased = lease(home)
        code = work(home.settings, home.store, run_id, leased.fence)
        assert (code == 0) == (attempt == home.settings.learner.max_attempts - 1)
        if code:
            give_back(home, leased)
    assert the_run(home, run_id).state == "failed" and said in the_run(home, run_id).message


def test_a_full_disk_under_the_metrics_costs_no_attempt(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor a line, where there is space again by the end."""
    real, fulls = metrics._append, [1, 1]

    def full(path: Path, text: str) -> None:
        if fulls and fulls.pop():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, text)

    monkeypatch.setattr(metrics, "_append", full)
    home.correct("a", "bb")
    run_id, trainer = queue(home), Pretender()
    cycle(home, lease(home), trainer).run()
    assert the_run(home, run_id).state == "succeeded" and trainer.done == ["train", "evaluate"]
    assert caplog.text.count("metrics.jsonl can't be written (No space left on device).") == 1
    folder = home.settings.runs_folder / run_id
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("full", ["save", "curves"])
def test_a_trained_adapter_waits_in_memory_for_space_on_the_disk(
    home: Home, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    monkeypatch.setattr("learner.disk_space.FIRST_PAUSE", 0.01)
    home.correct("a", "bb")
    run_id, phases = queue(home), list[str]()

    def fill() -> None:
        phases.append(the_run(home, run_id).phase)
        if len(phases) < 3:
            raise OSError(errno.ENOSPC, "No space left on device", "adapter")

    trainer = Pretender(lambda place: fill() if place == "saved" and full == "save" else None)
    if full == "curves":
        monkeypatch.setattr("learner.cycle.draw", lambda *_: fill())
    cycle(home, lease(home), trainer).run()
    assert phases == ["train: sft", "waiting for space", "waiting for space"]
    assert "waiting for space" not in the_run(home, run_id).furthest  # to wait is no step forward
    assert trainer.done == ["train", "evaluate"]
    assert the_run(home, run_id).state == "succeeded" and adapters_of(home) == {"v1": "candidate"}


def test_where_there_is_no_space_for_long_nothing_unfinished_stays_and_it_is_said_in_plain_words(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.disk_space.LIMIT_SECONDS", 0.0)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests' own process keeps its SIGTERM
    home.settings = home.settings.model_copy(
        update={"learner": home.settings.learner.model_copy(update={"max_attempts": 1})}
    )
    home.correct("a", "bb")
    run_id = queue(home)

    def fill(place: str) -> None:
        if place == "saved":
            raise OSError(errno.ENOSPC, "No space left on device", "adapter_model.safetensors")

    trainer = Pretender(fill)
    monkeypatch.setattr(Cycle, "__post_init__", patched(Cycle.__post_init__, trainer))
    leased = lease(home)
    assert work(home.settings, home.store, run_id, leased.fence) == 0
    run = the_run(home, run_id)
    assert run.state == "failed"
    assert "can't read or write adapter_model.safetensors: No space left on device. Free some space" in run.message
    assert not (home.settings.runs_folder / run_id / "adapter.partial").exists()


def patched(post_init: Callable[[Cycle], None], trainer: Pretender) -> Callable[[Cycle], None]:
    """Has a cycle train with the pretender."""

    def instead(self: Cycle) -> None:
        post_init(self)
        self.make_trainer = trainer.make

    return instead
