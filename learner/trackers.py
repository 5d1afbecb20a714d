"""A run's metrics, told to the experiment trackers that `learner.trackers` names: MLflow, Weights & Biases.

Where they send things is theirs to be told, by their own variables (MLFLOW_TRACKING_URI, WANDB_BASE_URL, WANDB_MODE …).
A run is one run there, under its own id, and goes on there when it goes on here. They only watch: one that fails is
left out for the rest of the attempt, and the run says so in its log.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from service.errors import SettingsError
from service.settings import TrackerName

PROJECT = "hone"
SECONDS = 20
"""That one may hold a run up, each time that it does not answer."""
PACKAGES: dict[TrackerName, str] = {"mlflow": "mlflow-skinny", "wandb": "wandb"}

log = logging.getLogger("hone.learner")


class Tracker(Protocol):
    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, ended_well: bool) -> None:
        """Send what waits to be sent; a later `add` goes on with the same run."""


class Mlflow:
    """A run of the experiment `hone`, whose id is kept in the file `kept`."""

    def __init__(self, run_id: str, settings: Mapping[str, Any], kept: Path) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # by itself it waits minutes for a server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS))
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if kept.exists():
            self._run: str = kept.read_text(encoding="utf-8").strip()
            return
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(experiment, run_name=run_id).info.run_id
        for name, value in settings.items():
            self._client.log_param(self._run, name, value)
        kept.write_text(self._run + "\n", encoding="utf-8")

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(f"{_plain(phase)}/{name}", value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, ended_well: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if ended_well else "FAILED")


class Wandb:
    """A run of the project `hone`, by our run's id."""

    def __init__(self, run_id: str, settings: Mapping[str, Any], folder: Path) -> None:
        self._run_id, self._settings, self._folder = run_id, dict(settings), folder
        self._run: Any = None

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        import wandb

        if self._run is None:
            self._run = wandb.init(
                project=PROJECT, id=self._run_id, name=self._run_id, resume="allow", config=self._settings,
                dir=self._folder, settings=wandb.Settings(silent=True, console="off", finish_timeout=SECONDS),
            )  # fmt: skip
        of_phase = {f"{_plain(phase)}/{name}": value for name, value in values.items()}
        self._run.log(of_phase | {f"{_plain(phase)}/step": step})  # its own count of steps knows no phases

    def close(self, ended_well: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if ended_well else 1)
            self._run = None


class Trackers:
    """All that `names` says, each until it fails. `folder`: the run's, where they may keep things."""

    def __init__(self, names: Sequence[TrackerName], run_id: str, settings: Mapping[str, Any], folder: Path) -> None:
        self._names, self._run_id, self._settings, self._folder = list(names), run_id, settings, folder
        self._opened = dict[TrackerName, Tracker]()

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """The first one of all opens them: until then there is nothing to tell."""
        for name in list(self._names):
            try:
                if name not in self._opened:
                    self._opened[name] = self._open(name)
                self._opened[name].add(phase, step, values)
            except Exception as error:  # whatever it is, the run is worth more
                self._leave_out(name, error)

    def close(self, ended_well: bool) -> None:
        for name, tracker in list(self._opened.items()):
            try:
                tracker.close(ended_well)
            except Exception as error:
                self._leave_out(name, error)

    def _open(self, name: TrackerName) -> Tracker:
        if name == "mlflow":
            return Mlflow(self._run_id, self._settings, self._folder / "mlflow-run")
        return Wandb(self._run_id, self._settings, self._folder)

    def _leave_out(self, name: TrackerName, error: Exception) -> None:
        self._names.remove(name)
        self._opened.pop(name, None)
        log.warning("%s is told nothing more of this run: %s", name, error)


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raises SettingsError where one is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SettingsError(
                f"learner.trackers names {name}, which is not installed here.",
                f"pip install {PACKAGES[name]}, or take it out of the setting.",
            )


def _plain(phase: str) -> str:
    return phase.replace(" ", "-")
