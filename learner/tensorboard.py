"""A run's metrics as event files, a folder a phase: `tensorboard --logdir <home>/runs` draws them as they come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FLUSH_SECONDS = 5


class Board:
    """What is written may come to the disk some seconds later; `metrics.jsonl` has it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One step's values; the first of a phase says that what an earlier attempt wrote from there on is void."""
        if phase not in self._writers:
            from tensorboardX import SummaryWriter  # it takes a second: only when there is something to write

            folder = self._folder / phase.replace(" ", "-")
            self._writers[phase] = SummaryWriter(
                str(folder), purge_step=step, flush_secs=FLUSH_SECONDS, filename_suffix=f".{time.time_ns()}"
            )  # by itself it names files by the second, and would write over one that was begun in the same
        for name, value in values.items():
            self._writers[phase].add_scalar(name, value, step)

    def close(self) -> None:
        """Flush; a later `add` opens files of its own."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
