"""A control loop: the same work again and again, sooner when woken, and more and more rarely while it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from service.errors import HoneError

LONGEST_PAUSE_SECONDS = 2.0
"""Between two tries while something is wrong."""
_log = logging.getLogger(__name__)


async def control_loop(
    work: Callable[[], Awaitable[object]], woken: asyncio.Event, pause_seconds: float, when_bug: Callable[[str], None]
) -> None:
    """Repeat `work` until cancelled; nothing that goes wrong in one round ends it. `when_bug`: is told so, in words."""
    longest = max(LONGEST_PAUSE_SECONDS, pause_seconds)
    pause = pause_seconds
    while True:
        try:
            await work()
            pause = pause_seconds
        except HoneError:
            pause = min(2 * pause, longest)
        except Exception:
            _log.exception("The rollout met a bug; it goes on.")
            when_bug("The rollout met a bug; see the log.")
            pause = LONGEST_PAUSE_SECONDS
        try:
            async with asyncio.timeout(pause):  # `wait_for` loses a cancellation that comes just after a wake
                await woken.wait()
            pause = pause_seconds
        except TimeoutError:
            pass
        woken.clear()
