"""Waiting for an engine that has gone away: more and more rarely asked, and not for ever."""

from __future__ import annotations

import asyncio
import logging
import time

from learner.sampler import Tell
from service.errors import EngineUnavailable

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds between two tries; each pause is twice the one before."""
TELL_SECONDS = 0.5

log = logging.getLogger("hone.learner")


class Patience:
    """Of one wait after another; `limit_seconds` is for each."""

    def __init__(self, limit_seconds: float, first_pause: float = FIRST_PAUSE) -> None:
        self._limit, self._first = limit_seconds, first_pause
        self._since: float | None = None
        self._pause = first_pause

    async def wait(self, error: EngineUnavailable, tell: Tell) -> None:
        """Until the next try. Raises EngineUnavailable once the limit is reached, and what `tell` raises."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            log.warning("The training waits for the engine. %s", error)
        if (left := self._since + self._limit - now) <= 0:
            raise EngineUnavailable(
                f"The training waited {self._limit:g} s (learner.rollout_wait_seconds) for the engine. {error}",
                "What was learned before is kept: the run is tried again up to learner.max_attempts times. Start the "
                'engine, or set learner.rollouts = "trainer".',
            ) from error
        until = now + min(self._pause, left)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        while (left := until - time.monotonic()) > 0:
            tell(True)
            await asyncio.sleep(min(left, TELL_SECONDS))

    def end(self) -> None:
        """An engine has answered."""
        if self._since is not None:
            log.info("The engine is back after %.1f s; the training goes on.", time.monotonic() - self._since)
        self._since, self._pause = None, self._first
