"""MLflow and Weights & Biases, the real ones, hear a run's metrics; one that fails is left out and told of."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from learner import trackers
from learner.run_folder import RunFolder
from learner.trackers import Trackers, require_trackers
from service.errors import SettingsError
from tests.fixtures.waiting import PATIENCE, until


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    return MlflowClient()


def test_mlflow_hears_every_step_of_one_run_over_two_attempts(server: MlflowClient, tmp_path: Path) -> None:
    for steps in ((1, 2), (3,)):
        attempt = Trackers(["mlflow"], "run-7", {"rank": 8}, tmp_path)
        for step in steps:
            attempt.add("sft again", step, {"loss": 1 / step})
        attempt.close(True)
    [experiment] = [one for one in server.search_experiments() if one.name == "hone"]
    [run] = server.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.data.params["rank"], run.info.status) == ("run-7", "8", "FINISHED")
    heard = server.get_metric_history(run.info.run_id, "sft-again/loss")
    assert sorted((one.step, one.value) for one in heard) == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_steps_that_an_attempt_repeats_are_told_once(server: MlflowClient, tmp_path: Path) -> None:
    for first, last in ((1, 3), (2, 4), (3, 5)):
        attempt = Trackers(["mlflow"], "run-7", {}, tmp_path)
        for step in range(first, last + 1):
            attempt.add("sft again", step, {"loss": 1 / step})
        attempt.add("dpo", first, {"loss": 1.0})
        attempt.close(False)
        with (tmp_path / "mlflow.told").open("a") as file:
            file.write("4")  # what a kill cut short
    [experiment] = [one for one in server.search_experiments() if one.name == "hone"]
    [run] = server.search_runs([experiment.experiment_id])
    for name, steps in {"sft-again/loss": [1, 2, 3, 4, 5], "dpo/loss": [1, 2, 3]}.items():
        assert sorted(one.step for one in server.get_metric_history(run.info.run_id, name)) == steps


def test_weights_and_biases_hears_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    told = Trackers(["wandb"], "run-8", {"rank": 8}, tmp_path)
    told.add("dpo", 1, {"reward_margin": 0.25})
    told.close(True)
    [kept] = (tmp_path / "wandb").glob("offline-run-*/run-run-8.wandb")
    until(lambda: b"dpo/reward_margin" in kept.read_bytes())  # a process of its own writes it


def test_one_that_fails_is_left_out_and_the_other_goes_on(
    server: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object, phase: str, step: int, values: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(trackers.Wandb, "add", fail)
    both = Trackers(["wandb", "mlflow"], "run-9", {}, tmp_path)
    with caplog.at_level(logging.WARNING, logger="hone.learner"):
        both.add("sft", 1, {"loss": 1.0})
        both.add("sft", 2, {"loss": 0.5})
        both.close(True)
    assert [record.message for record in caplog.records] == ["wandb is told nothing more of this run: nobody answers"]
    [experiment] = [one for one in server.search_experiments() if one.name == "hone"]
    [run] = server.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"sft/loss": 0.5}


def test_a_server_that_is_away_costs_the_metrics_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    told = Trackers(["mlflow"], "run-10", {}, tmp_path)
    told.add("sft", 1, {"loss": 1.0})
    told.close(True)
    assert "mlflow is told nothing more of this run" in caplog.text


class Held:
    """A tracker that hears nothing before it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.is_at_it = threading.Event()
        self.heard: list[int] = []
        self.ended: bool | None = None

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        self.is_at_it.set()
        self.let_go.wait()
        self.heard.append(step)

    def close(self, ended_well: bool) -> None:
        self.ended = ended_well


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    tracker = Held()
    monkeypatch.setattr(trackers, "Mlflow", lambda *_: tracker)
    yield tracker
    tracker.let_go.set()


def test_a_run_that_begins_afresh_is_told_from_its_first_step(held: Held, tmp_path: Path) -> None:
    held.let_go.set()
    folder = RunFolder(tmp_path)
    for _ in range(2):
        told = Trackers(["mlflow"], "run-15", {}, folder.path)
        for begins in ("as it was", "afresh"):
            if begins == "afresh":
                folder.start_over()
            told.add("sft", 1, {"loss": 1.0})
            told.close(True)
    assert held.heard == [1, 1, 1]  # the second attempt repeats the first one's


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "trackers"]


def test_a_training_goes_on_while_a_tracker_hangs_and_it_hears_all_steps_in_order_in_the_end(
    held: Held, tmp_path: Path
) -> None:
    told = Trackers(["mlflow"], "run-11", {}, tmp_path)
    for step in range(50):
        told.add("sft", step, {"loss": 1.0})  # comes back, though nothing was heard
    assert held.is_at_it.wait(PATIENCE) and not held.heard and len(threads()) == 1
    threading.Timer(0.05, held.let_go.set).start()  # while it is waited for
    told.close(True)
    assert held.heard == list(range(50)) and held.ended is True and not threads()


def test_more_than_can_wait_is_dropped_and_told_of(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "MOST_WAITING", 3)
    told = Trackers(["mlflow"], "run-12", {}, tmp_path)
    told.add("sft", 0, {"loss": 1.0})
    assert held.is_at_it.wait(PATIENCE)  # the first waits no more
    for step in range(1, 10):
        told.add("sft", step, {"loss": 1.0})
    held.let_go.set()
    told.close(True)
    assert held.heard == [0, 1, 2, 3] and "6 steps were not told to mlflow." in caplog.text and not threads()


def test_the_end_waits_for_none_that_hangs_and_drops_what_it_has_not_heard(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "END_SECONDS", 0.05)
    told = Trackers(["mlflow"], "run-13", {}, tmp_path)
    for step in range(4):
        told.add("sft", step, {"loss": 1.0})
    assert held.is_at_it.wait(PATIENCE)
    (hanging,) = threads()
    told.close(False)
    assert "mlflow took too long, and is told nothing more of this run." in caplog.text
    assert "3 steps were not told to mlflow." in caplog.text
    told.add("sft", 5, {"loss": 1.0})
    assert threads() == [hanging]
    held.let_go.set()
    hanging.join(PATIENCE)  # it ends as soon as it can
    assert not hanging.is_alive() and held.heard == [0]


def test_without_trackers_there_is_no_thread(tmp_path: Path) -> None:
    told = Trackers([], "run-14", {}, tmp_path)
    told.add("sft", 1, {"loss": 1.0})
    assert not threads()
    told.close(True)


def test_one_that_is_not_installed_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"names mlflow, which is not installed here\.") as refused:
        require_trackers(["mlflow"])
    assert refused.value.hint == "pip install mlflow-skinny, or take it out of the setting."
    require_trackers([])
