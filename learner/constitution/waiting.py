"""Waiting for a judge elsewhere: one that asks for time, and one that answered before and is gone.

All questions that are under way wait together, and whoever follows the run hears for what.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from learner.batch import Progress

log = logging.getLogger("hone.learner")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two tries at one that is gone; each pause is twice the one before."""
LONGEST_GONE = 300.0
"""Seconds from which on it counts as failed."""
WORTH_TELLING = 1.0
"""Seconds of a wait."""
WAITING_FOR_JUDGE = "waiting for the judge"
"""How the phase of a run begins that waits for it."""

SayWhy = Callable[[str], None]
"""Called with why a judge is waited for, and with "" once it answers."""


class Waiting:
    """Until a judge may be asked again. `judge`: how it is told of."""

    def __init__(self, judge: str, say: SayWhy) -> None:
        self._judge, self._say = judge, say
        self._until, self._is_told = 0.0, False
        self._has_answered, self._gone_since, self._pause = False, 0.0, FIRST_PAUSE

    async def over(self) -> None:
        """Wait."""
        if (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(left)
            await self.over()  # it may have asked for more meanwhile

    def is_asked_for(self, seconds: float) -> None:
        """By the judge itself."""
        self._wait(seconds, "asks to wait")

    def is_gone(self) -> bool:
        """It can't be reached. Whether to wait for it: not for one that never answered, and not for ever."""
        now = time.monotonic()
        if not self._has_answered:
            return False
        self._gone_since = self._gone_since or now
        if now - self._gone_since >= LONGEST_GONE:
            return False
        if now >= self._until:  # of all questions the first one finds it gone
            self._wait(self._pause, "does not answer, trying again in")
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return True

    def is_answered(self) -> None:
        """Whatever it says."""
        if self._gone_since:
            log.info("The judge at %s answers again.", self._judge)
        if self._is_told:
            self._say("")
        self._has_answered, self._is_told, self._gone_since, self._pause = True, False, 0.0, FIRST_PAUSE

    def _wait(self, seconds: float, what: str) -> None:
        until, before = time.monotonic() + seconds, self._until
        self._until = max(until, before)
        if seconds >= WORTH_TELLING and until - before >= WORTH_TELLING:
            why = f"{what} {seconds:.0f} s"
            log.warning("The judge at %s %s.", self._judge, why)
            self._is_told = True
            self._say(why)


class Interrupted:
    """A progress that says that the work waits for the judge, and once it doesn't, how far it had come."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = WAITING_FOR_JUDGE, 0, 1

    def __call__(self, phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        self._last = phase, step, steps
        self._progress(phase, step, steps, metrics)

    def waits(self, why: str) -> None:
        """As `SayWhy` says."""
        self._progress(*((f"{WAITING_FOR_JUDGE}, which {why}", 0, 1) if why else self._last), {})
