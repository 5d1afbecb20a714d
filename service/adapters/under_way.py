"""How many requests one engine has under way, and when there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class UnderWay:
    def __init__(self) -> None:
        self.count = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """For as long as the block takes."""
        self.count += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self.count -= 1
            if not self.count:
                self._is_idle.set()

    async def none_left(self) -> None:
        """Return once there are none."""
        await self._is_idle.wait()
