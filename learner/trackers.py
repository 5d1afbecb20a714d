"""A run's metrics, told to the experiment trackers that `learner.trackers` names: MLflow, Weights & Biases.

Where they send things is theirs to be told, by their own variables (MLFLOW_TRACKING_URI, WANDB_BASE_URL, WANDB_MODE …).
A run is one run there, under its own id, and goes on there when it goes on here. They can take nothing back, so a file
keeps for each how far it was told, and steps that an attempt repeats are not told again. They only watch: the training
does not wait for them, and one that fails is left out for the rest of the attempt, which the run says in its log.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol

from learner.counted import counted
from learner.run_folder import TOLD
from service.errors import SettingsError
from service.settings import TrackerName

PROJECT = "hone"
SECONDS = 20
"""Within which one has to answer, and hear in the end what it was not told yet."""
END_SECONDS = 1.5
"""The same where a training is told to stop: it has not much more before it is killed."""
MOST_WAITING = 1000
"""Steps that wait to be told."""
PACKAGES: dict[TrackerName, str] = {"mlflow": "mlflow-skinny", "wandb": "wandb"}

Step = tuple[str, int, Mapping[str, float]]
"""Phase, step, and its values."""

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
    """All that `names` says, each until it fails. `folder`: the run's, where they may keep things.

    They are told by a thread of their own, in the order of the steps, so that none of them holds the training up.
    Where they are MOST_WAITING steps behind, further ones are dropped, and counted.
    """

    def __init__(self, names: Sequence[TrackerName], run_id: str, settings: Mapping[str, Any], folder: Path) -> None:
        self._listeners = _Listeners(names, run_id, settings, folder)
        self._names = list(names)
        self._teller: _Teller | None = None

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """The first one of all opens them: until then there is nothing to tell."""
        if not self._names:
            return
        if self._teller is None:
            self._teller = _Teller(self._listeners)
        self._teller.add((phase, step, dict(values)))

    def close(self, ended_well: bool) -> None:
        """Wait until they have heard all, at most SECONDS, or END_SECONDS where the training did not end well: it may
        have been told to stop. A later `add` goes on with the same runs, unless they had not heard all by then."""
        if self._teller is None:
            return
        teller, self._teller = self._teller, None
        told = " and ".join(self._names)
        if not teller.close(ended_well, SECONDS if ended_well else END_SECONDS):
            log.warning("%s took too long, and is told nothing more of this run.", told)
            self._names = []
        if teller.dropped:
            log.warning("%s not told to %s.", counted(teller.dropped, "step was", "steps were"), told)


class _Teller:
    """The thread, and what waits for it."""

    def __init__(self, listeners: _Listeners) -> None:
        self._listeners = listeners
        self._waiting: Queue[Step | bool] = Queue(MOST_WAITING)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="trackers", daemon=True)  # one may hang for ever
        self._thread.start()
        self.dropped = 0

    def add(self, step: Step) -> None:
        try:
            self._waiting.put_nowait(step)
        except Full:
            self.dropped += 1

    def close(self, ended_well: bool, seconds: float) -> bool:
        """Whether all that waited was told within so many seconds. What wasn't is dropped, and the thread ends as soon
        as the tracker that it waits for lets it."""
        until = time.monotonic() + seconds
        with suppress(Full):
            self._waiting.put(ended_well, timeout=seconds)
        self._thread.join(max(0.0, until - time.monotonic()))
        if not self._thread.is_alive():
            return True
        self._is_over.set()
        with suppress(Empty):
            while True:
                self.dropped += not isinstance(self._waiting.get_nowait(), bool)
        with suppress(Full):
            self._waiting.put_nowait(ended_well)  # should it be waiting by now
        return False

    def _tell(self) -> None:
        while not self._is_over.is_set():
            told = self._waiting.get()
            if isinstance(told, bool):
                self._listeners.close(told)
                return
            self._listeners.add(*told)


class _Told:
    """How far a tracker was told each phase, in a file of lines: step, space, phase. A step is noted just before it is
    told, so that a kill between the two costs that step and never doubles it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = dict[str, int]()
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            step, _, phase = line.partition(" ")
            if phase:
                self._before[phase] = max(int(step), self._before.get(phase, 0))

    def has(self, phase: str, step: int) -> bool:
        """Whether it was told when the file was read."""
        return step <= self._before.get(phase, -1)

    def note(self, phase: str, step: int) -> None:
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:  # a full disk may cost a double step
            file.write(f"\n{step} {phase}\n")  # the line before may be one that a kill cut short


class _Listeners:
    """The trackers themselves, each until it fails; the thread's alone."""

    def __init__(self, names: Sequence[TrackerName], run_id: str, settings: Mapping[str, Any], folder: Path) -> None:
        self._names, self._run_id, self._settings, self._folder = list(names), run_id, settings, folder
        self._opened = dict[TrackerName, Tracker]()
        self._told = dict[TrackerName, _Told]()

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        for name in list(self._names):
            try:
                if name not in self._opened:
                    self._opened[name] = self._open(name)
                if name not in self._told:
                    self._told[name] = _Told(self._folder / f"{name}{TOLD}")
                if not self._told[name].has(phase, step):
                    self._told[name].note(phase, step)
                    self._opened[name].add(phase, step, values)
            except Exception as error:  # whatever it is, the run is worth more
                self._leave_out(name, error)

    def close(self, ended_well: bool) -> None:
        self._told.clear()  # should the run begin afresh, its files are gone
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
