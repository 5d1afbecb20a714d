"""What a training measures, step by step, kept for whoever looks: the metrics file, TensorBoard, and the trackers."""

from __future__ import annotations

from collections.abc import Mapping

from learner.metrics import Metrics
from learner.run_folder import RunFolder
from learner.tensorboard import Board
from learner.trackers import Trackers
from service.settings import LearnerSettings


class RunRecord:
    """Of one attempt at a run. None of it holds the training up, or ends it."""

    def __init__(self, settings: LearnerSettings, run_id: str, folder: RunFolder) -> None:
        self._metrics = Metrics(folder.metrics)
        self._board = Board(folder.events)
        self._trackers = Trackers(settings.trackers, run_id, settings.model_dump(mode="json"), folder.path)

    def add(self, stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """A step without metrics leaves nothing."""
        if metrics:
            self._metrics.add(stage, step, steps, metrics)
            self._board.add(stage, step, metrics)
            self._trackers.add(stage, step, metrics)

    def write_metrics(self) -> None:
        """What a full disk kept from the file, as far as there is space by now."""
        self._metrics.write()

    def close(self, ended_well: bool) -> None:
        """Training is over: what was told of it is on its way to where it is to be seen."""
        self._board.close()
        self._trackers.close(ended_well)
