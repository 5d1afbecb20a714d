"""A full disk is waited for, as an engine is: what a training made is not thrown away for want of a few megabytes."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

WAITING_FOR_SPACE = "waiting for space"
"""The phase of a run that can't go on before there is space on a disk."""
LIMIT_SECONDS = 900.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two tries; each pause is twice the one before."""

log = logging.getLogger("hone.learner")


def is_full(error: OSError) -> bool:
    """Whether a disk, or what may be used of it, is."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def once_there_is_space(write: Callable[[], None], waiting: Callable[[], object]) -> None:
    """Call `write`, again and again while the disk is full. `waiting` is called before each pause; it may raise.

    Raises what `write` does for another reason, or for this one still after LIMIT_SECONDS.
    """
    deadline, pause = time.monotonic() + LIMIT_SECONDS, FIRST_PAUSE
    while True:
        try:
            return write()
        except OSError as error:
            if not is_full(error) or time.monotonic() >= deadline:
                raise
            if pause == FIRST_PAUSE:
                log.warning(
                    "There is no space to write %s. Free some: what was trained is kept in memory meanwhile, for %g "
                    "minutes.",
                    error.filename or "what was trained",
                    LIMIT_SECONDS / 60,
                )
        waiting()
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
