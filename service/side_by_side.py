"""Several pieces of work at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def side_by_side(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; none is worked on any more when one fails or the caller is cancelled.

    No asyncio.TaskGroup: before Python 3.13 one that fails may leave its caller marked as cancelled, which ends what it
    next waits for under a timeout, and may swallow a cancellation that comes meanwhile.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
