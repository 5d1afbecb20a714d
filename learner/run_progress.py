"""How far a run is: told to the store, step by step to the metrics file, TensorBoard and the trackers. Whoever tells it
hears whether to go on: the run may have been taken over by another process, or this one been asked to stop.

    progress = RunProgress(settings, store, run_id, fence, folder)
    progress.say("train", 0, 1)
    trainer.train(stages, lessons, checkpoint, progress.of("train"))
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from learner.batch import Progress
from learner.run_folder import RunFolder
from learner.run_record import RunRecord
from service.errors import NotFound
from service.settings import Settings
from service.store.queries import runs
from service.store.session import Store
from service.store.tables import Run

log = logging.getLogger("hone.learner")

SECONDS_BETWEEN_SAYING = 0.5
"""How often a training tells the store how far it is; the metrics file has every step."""


class Stopped(Exception):
    """The daemon asked this process to stop; the run goes on later."""


class RunProgress:
    """Of one attempt at a run."""

    def __init__(self, settings: Settings, store: Store, run_id: str, fence: int, folder: RunFolder) -> None:
        self._store, self._run_id, self._fence = store, run_id, fence
        self.record = RunRecord(settings.learner, run_id, folder)
        self._said = "", 0.0
        self._stop_asked = False

    def stop(self) -> None:
        """At any time: the next step raises Stopped."""
        self._stop_asked = True

    def say(self, phase: str, step: int, steps: int, stage: str = "") -> Run:
        """Tell the store how far the run is, and hear whether it is still ours. Raises LeaseLost, Stopped.

        `stage`: what of the phase these are the steps of. To wait is no step forward.
        """
        if self._stop_asked:
            raise Stopped
        with self._store.begin() as tx:
            reached = None if _is_wait(phase) else stage or phase
            runs.progress(tx, self._run_id, self._fence, phase, step, steps, reached)
            run = runs.get_run(tx, self._run_id)
        if run is None:
            raise NotFound(f"There is no run {self._run_id}.")
        if phase != self._said[0]:
            log.info("Phase %s.", phase)
        self._said = phase, time.monotonic()
        return run

    def of(self, phase: str) -> Progress:
        """What a method calls at every step: the metrics file hears all of it, the store a little."""

        def progress(stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
            if self._stop_asked:
                raise Stopped
            self.record.add(stage, step, steps, metrics)
            shown = stage if stage == phase or _is_wait(stage) else f"{phase}: {stage}"
            said, when = self._said
            if said != shown or step in (0, steps) or time.monotonic() - when > SECONDS_BETWEEN_SAYING:
                self.say(shown, step, steps, stage)

        return progress


def _is_wait(phase: str) -> bool:
    """As the phases of all waits begin: for the engine, for space, for the judge."""
    return phase.startswith("waiting for ")
