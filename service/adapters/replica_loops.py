"""One control loop a replica, of replicas that come and go while the loops run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from service.adapters.fleet import AnyReplica

Tend = Callable[[AnyReplica], Awaitable[object]]
Repeat = Callable[[Callable[[], Awaitable[object]], asyncio.Event], Coroutine[Any, Any, None]]


class ReplicaLoops:
    def __init__(self, replicas: Iterable[AnyReplica], tend: Tend, repeat: Repeat) -> None:
        """`tend`: the work; `repeat`: does it again and again, sooner when the event is set."""
        self._tend, self._repeat = tend, repeat
        self._woken = {replica: asyncio.Event() for replica in replicas}
        self._tasks: dict[AnyReplica, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def wake(self, *replicas: AnyReplica) -> None:
        """Tend these now, or all; one that has gone is passed over."""
        for replica in replicas or tuple(self._woken):
            if (event := self._woken.get(replica)) is not None:
                event.set()

    def run(self, group: asyncio.TaskGroup) -> None:
        """Begin; the loops end with the group."""
        self._group = group
        for replica in self._woken:
            self._begin(replica)

    def add(self, replica: AnyReplica) -> None:
        self._woken[replica] = asyncio.Event()
        self._begin(replica)

    async def end(self, replica: AnyReplica) -> None:
        """End its loop, whatever it is at."""
        self._woken.pop(replica, None)
        if (task := self._tasks.pop(replica, None)) is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _begin(self, replica: AnyReplica) -> None:
        if self._group is not None:
            work = self._repeat(partial(self._tend, replica), self._woken[replica])
            self._tasks[replica] = self._group.create_task(work)
