"""Connections to an engine, used with as little work per request and per token as Python allows.

A POST, the head of its answer, then the body: whole, or as server-sent events. httptools (C) parses what arrives, right
in the transport's callback: a general HTTP client costs several times as much, and every token takes this path. A
connection whose answer came to its end is kept for the next request; closing one before that is how an engine learns
that nobody wants the rest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

from service.adapters.engine import EngineBrokeOff

KEEPALIVE_SECONDS = 3.0
"""Below the 5 s after which uvicorn closes an idle connection, so that we hardly ever meet it half shut."""
LINGER_SECONDS = 1.0
"""Between the last event and the end of the answer, which an engine sends at once."""
MOST_UNREAD = 256 * 1024
"""Bytes of an answer that nobody has taken yet, above which nothing more is read from the connection."""
PROBES = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
"""Of TCP's keepalive, where the platform has them: seconds of silence, seconds between probes, how many; and the
milliseconds that what was sent may stay unacknowledged. Else a connection that only one side still has waits for ever
on an engine that says it is well."""


class Connections:
    """All to one engine. One that says nothing for `silence_seconds` is asked `is_well`: while it is, requests wait."""

    def __init__(
        self, url: str, silence_seconds: float, connect_seconds: float, is_well: Callable[[], Awaitable[bool]]
    ) -> None:
        parts = urlsplit(url)
        self._is_safe = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._is_safe else 80)
        self._prefix, self._netloc = parts.path, parts.netloc
        self._connect_seconds = connect_seconds
        self.silence_seconds, self.is_well = silence_seconds, is_well
        self._idle: list[Connection] = []

    async def post(self, path: str, body: bytes) -> Connection:
        """Send `body` (JSON) and read the answer's head; close the connection when the answer was read.

        Raises OSError or TimeoutError when the engine can't be reached, EngineBrokeOff when it breaks off or falls
        silent.
        """
        request = self._head(path, len(body)) + body
        kept, cut_off = self._kept(), None
        if kept is not None:
            try:
                return await kept.ask(request)
            except EngineBrokeOff as error:
                if not kept.was_shut:
                    raise
                cut_off = error
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, fresh = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._is_safe or None
                )
        except (OSError, TimeoutError):
            if cut_off is not None:  # not an idle connection that was closed: the engine has gone with the request
                raise cut_off from None
            raise
        return await fresh.ask(request)

    def keep(self, connection: Connection) -> None:
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    def _kept(self) -> Connection | None:
        """The one that was used last; when that has been idle for too long, so have all others, and all are closed."""
        if self._idle and self._idle[-1].is_fresh:
            return self._idle.pop()
        self.close()
        return None

    def _head(self, path: str, length: int) -> bytes:
        return (
            f"POST {self._prefix}{path} HTTP/1.1\r\nhost: {self._netloc}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\ncontent-length: {length}\r\n\r\n"
        ).encode("latin-1")


class Connection(asyncio.Protocol):
    """One, and the answer that it brings now."""

    def __init__(self, pool: Connections) -> None:
        self.status = 0
        self._pool, self._loop = pool, asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._unread = self._requests = self._arrivals = 0
        self._rest = b""  # of the body: the beginning of an event
        self._has_begun = self._has_head = self._is_complete = self._is_paused = False
        self._stays_open = self._is_left = False
        self._broken: Exception | None = None  # why no more comes
        self._idle_since = 0.0
        self._waiter: asyncio.Future[bool] | None = None
        self._waits_since = 0.0
        self._silence: asyncio.TimerHandle | None = None

    @property
    def is_fresh(self) -> bool:
        return self._broken is None and self._loop.time() - self._idle_since < KEEPALIVE_SECONDS

    @property
    def was_shut(self) -> bool:
        """Whether the engine closed an idle connection just as it was used again: then nothing has happened yet."""
        return self._requests > 1 and not self._has_begun and self._broken is not None

    async def ask(self, request: bytes) -> Connection:
        """Send a request and read the head of its answer, whose body is then to be had."""
        self._requests += 1
        self._has_begun = self._has_head = self._is_complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        try:
            while not self._has_head:
                await self._more()
        except BaseException:
            self.close()
            raise
        self.status = self._parser.get_status_code()
        return self

    async def content(self) -> bytes:
        """The body, whole."""
        while not self._is_complete:
            self._resume()
            await self._more()
        content = b"".join(self._body)
        self._body.clear()
        return content

    async def events(self) -> list[bytes]:
        """The payloads, without `data: `, of the events that came since it was asked last; empty at the end.

        A stream that came to its end ends with `[DONE]`. Raises EngineBrokeOff when the engine falls silent or breaks
        off.
        """
        while True:
            if self._body:
                *events, self._rest = (self._rest + b"".join(self._body)).split(b"\n\n")
                self._body.clear()
                if payloads := [event[6:] for event in events if event.startswith(b"data: ")]:
                    return payloads
            if self._is_complete:
                return []
            self._resume()
            await self._more()

    def close(self) -> None:
        """The rest of the answer is not wanted; if it has come to its end, the connection is used again."""
        if self._is_complete and self._stays_open and self._broken is None:
            self._keep()
        else:
            self.abort()

    def leave(self) -> None:
        """All that matters was read: the connection is used again once what HTTP ends an answer with has come."""
        if self._is_complete:
            self.close()
        else:
            self._is_left = True
            self._giving_up = self._loop.call_later(LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        self._transport.abort()  # whatever is still on its way is not wanted

    def _keep(self) -> None:
        self._body.clear()
        self._rest, self._is_complete, self._idle_since = b"", False, self._loop.time()
        self._resume()
        self._pool.keep(self)

    async def _more(self) -> None:
        """Wait until something has come, or the connection has ended."""
        while self._broken is None:
            arrivals = self._arrivals
            self._waiter, self._waits_since = self._loop.create_future(), self._loop.time()
            if self._silence is None:
                self._watch_for(self._pool.silence_seconds)
            try:
                if await self._waiter:
                    return
            finally:
                self._waiter = None
            is_well = await self._pool.is_well()
            if self._arrivals > arrivals:  # while it was asked; nobody waited for it then
                return
            if not is_well:
                raise EngineBrokeOff("The engine fell silent.", retry_after=1)
        if not self._is_complete:
            words = f"The connection to the engine broke: {self._broken}."
            raise EngineBrokeOff(words, retry_after=1) from self._broken

    def _watch_for(self, seconds: float) -> None:
        """One timer for many waits: one for each token would cost more than the rest of the wait."""
        self._silence = self._loop.call_later(seconds, self._end_silence)

    def _end_silence(self) -> None:
        self._silence = None
        if self._waiter is None:
            return
        left = self._waits_since + self._pool.silence_seconds - self._loop.time()
        if left > 0:
            self._watch_for(left)
        else:
            self._wake(False)

    def _wake(self, has_come: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(has_come)

    def _resume(self) -> None:
        self._unread = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    # -- called by the transport ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        _keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        self._arrivals += 1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broken = self._broken or error
            self._transport.abort()
        if self._is_left and self._is_complete:
            self._is_left = False
            self._giving_up.cancel()
            self.close()
        self._wake(True)

    def connection_lost(self, error: Exception | None) -> None:
        self._broken = self._broken or error or ConnectionError("it was closed")
        self._pool.forget(self)
        if self._silence is not None:
            self._silence.cancel()
        self._wake(True)

    # -- called by the parser -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._has_begun = True

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._unread += len(body)
        if self._unread > MOST_UNREAD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._is_complete, self._stays_open = True, self._parser.should_keep_alive()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PROBES.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
