"""MLflow and Weights & Biases, the real ones, hear a run's metrics; one that fails is left out and told of."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from learner import trackers
from learner.trackers import Trackers, require_trackers
from service.errors import SettingsError


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


def test_weights_and_biases_hears_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    told = Trackers(["wandb"], "run-8", {"rank": 8}, tmp_path)
    told.add("dpo", 1, {"reward_margin": 0.25})
    told.close(True)
    [kept] = (tmp_path / "wandb").glob("offline-run-*/run-run-8.wandb")
    deadline = time.monotonic() + 60
    while b"dpo/reward_margin" not in kept.read_bytes():  # a process of its own writes it
        assert time.monotonic() < deadline, kept.read_bytes()
        time.sleep(0.1)


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


def test_one_that_is_not_installed_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"names mlflow, which is not installed here\.") as refused:
        require_trackers(["mlflow"])
    assert refused.value.hint == "pip install mlflow-skinny, or take it out of the setting."
    require_trackers([])
