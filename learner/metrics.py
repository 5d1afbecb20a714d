"""A run's metrics, one line a step. They only say how a training goes, so that none ends for want of a line."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from learner.run_folder import finite, write_whole

log = logging.getLogger("hone.learner")


class Metrics:
    """The file of one attempt. A run that goes on after a kill drops the lines of the steps it repeats.

    What can't be written (a full disk) is kept in memory, and written once there is space; the log says so once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: set[str] = set()
        self._repeated: dict[str, int] = {}  # phase → its first step now, while later lines of an attempt before stand
        self._unwritten: list[dict[str, Any]] = []
        self._warned = False

    def add(self, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        if phase not in self._begun:
            self._begun.add(phase)
            self._repeated[phase] = step
        self._unwritten.append({"step": step, "steps": steps, "phase": phase, **finite(dict(values))})
        self.write()

    def write(self) -> None:
        """What could not be written so far, as far as that is possible."""
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                log.warning(
                    "%s can't be written (%s). The training goes on; what is missing is written once that is possible.",
                    self._path,
                    error.strerror or error,
                )
            self._warned = True

    def _write(self) -> None:
        if not self._unwritten:
            return
        if self._repeated:
            stands = [
                one for one in read_metrics(self._path) if one["step"] < self._repeated.get(one["phase"], math.inf)
            ]
            write_whole(self._path, _lines(stands) + _lines(self._unwritten))
        else:
            _append(self._path, _lines(self._unwritten))
        self._unwritten, self._repeated, self._warned = [], {}, False


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines; a last one that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _lines(of_steps: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in of_steps)


def _append(path: Path, text: str) -> None:
    """All of it or nothing, but for a kill."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise
