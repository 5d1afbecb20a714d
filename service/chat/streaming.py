"""Answers that end when the caller leaves: an event stream, and a wait that is given up.

Written as plain ASGI, because what matters here is when exactly the caller's leaving is noticed: at once, whatever
the engine is doing, so that the engine's slot is free within one step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class CallerLeft(Exception):
    """The caller closed the connection before the answer was ready; nobody reads what is answered now."""


async def until_caller_leaves(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`; cancels it and raises CallerLeft when the caller closes the connection first."""
    here = asyncio.current_task()
    assert here is not None
    cancellations, has_left = here.cancelling(), False

    async def watch() -> None:
        nonlocal has_left
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left = here.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if has_left and here.cancelling() == cancellations + 1:  # else somebody else wants this task to end, too
            raise CallerLeft from None
        raise
    finally:
        watcher.cancel()
        if has_left:
            here.uncancel()


class EventStreamResponse(Response):
    """Server-sent events: the first, then the rest from a generator, which is closed when the caller leaves."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self._first, self._events = first, events
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(CallerLeft):
            await until_caller_leaves(receive, self._pump(send))

    async def _pump(self, send: Send) -> None:
        async with contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
