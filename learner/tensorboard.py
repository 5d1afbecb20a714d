"""A run's metrics as event files, a folder a phase: `tensorboard --logdir <home>/runs` draws them as they come.

They are written here, step by step, and not by the library's own thread, which would die of a full disk without a word
to the run and then hold it up. `metrics.jsonl` has the same: where these files can't be written, the run goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FLUSH_SECONDS = 5.0

log = logging.getLogger("hone.learner")


class Board:
    """What is written may come to the disk some seconds later; `metrics.jsonl` has it at once.

    The first thing that can't be written is the last that is tried for the rest of the attempt; the log says so.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _EventFile] = {}
        self._is_given_up = False

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One step's values; the first of a phase says that what an earlier attempt wrote from there on is void."""
        if self._is_given_up:
            return
        try:
            if phase not in self._files:
                self._files[phase] = _EventFile(self._folder / phase.replace(" ", "-"), step)
            self._files[phase].add(step, values)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Flush; a later `add` opens files of its own."""
        try:
            while self._files:
                self._files.popitem()[1].close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._is_given_up = True
        log.warning("TensorBoard is told nothing more of this run: %s can't be written: %s", self._folder, error)
        while self._files:
            with suppress(OSError):
                self._files.popitem()[1].close()


class _EventFile:
    """One event file. Whatever is done with it may raise OSError."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # it takes a second: only when there are events
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._flushed_at = time.monotonic()
        self._write(Event(step=first_step, file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self._records.flush()
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
