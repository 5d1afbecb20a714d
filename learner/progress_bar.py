"""The bar in the terminal that shows how far a training is: its phase, the phase's steps, and the time that is left of
these. Of what follows it nobody knows how long it takes, so nothing is said of that."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """On the standard error, as long as the `with` block lasts. `quiet`: nothing is shown."""

    def __init__(self, quiet: bool = False) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TextColumn("left of this phase:"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=Console(stderr=True), disable=quiet)
        self._task = self._bar.add_task("waiting", total=1)
        self._phase = ""

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, phase: str, step: int, steps: int, metrics: Mapping[str, float] | None = None) -> None:
        """A new phase begins at no time, and what is left is reckoned from its own steps."""
        if phase != self._phase:
            self._phase = phase
            self._bar.reset(self._task, description=phase)
        self._bar.update(self._task, completed=step, total=max(steps, 1))

    def end(self, how: str, is_whole: bool) -> None:
        self._bar.update(self._task, description=how, completed=int(is_whole), total=1)

    def say(self, line: str) -> None:
        """Above the bar."""
        self._bar.console.print(line, highlight=False)
