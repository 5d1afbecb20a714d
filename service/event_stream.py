"""A streamed answer of the engine, read with as little work per token as Python allows.

One connection a stream: a POST, the head, then server-sent events until the end; closing it is how an engine learns
that nobody wants the rest. httptools (C) parses: a general HTTP client costs several times as much per chunk, and this
is the one path that every token takes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, urlsplit

import httptools

from service.errors import EngineAway

READ_BYTES = 65536


class EventStream:
    """The payloads of a stream's events, without `data: `; the last is `[DONE]` if the engine came to the end.

    Open it with `EventStream.post`, and close it. `status` is the answer's; unless it is 200, `content` reads the rest.
    An engine that says nothing for `silence_seconds` is asked `is_well`: while it is, the request waits in its line.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        silence_seconds: float,
        is_well: Callable[[], Awaitable[bool]],
    ) -> None:
        self.status = 0
        self._reader, self._writer, self._silence, self._is_well = reader, writer, silence_seconds, is_well
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._has_head = self._is_complete = False

    @classmethod
    async def post(
        cls,
        url: str,
        body: bytes,
        silence_seconds: float,
        connect_seconds: float,
        is_well: Callable[[], Awaitable[bool]],
    ) -> EventStream:
        """Send `body` (JSON) and read the answer's head.

        Raises OSError or TimeoutError when the engine can't be reached, EngineAway when it breaks off.
        """
        parts = urlsplit(url)
        is_safe = parts.scheme == "https"
        port = parts.port or (443 if is_safe else 80)
        async with asyncio.timeout(connect_seconds):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=is_safe or None, limit=READ_BYTES)
        stream = cls(reader, writer, silence_seconds, is_well)
        try:
            writer.write(_head(parts, len(body)) + body)
            while not stream._has_head:
                await stream._feed()
        except BaseException:
            await stream.close()
            raise
        stream.status = stream._parser.get_status_code()
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._writer.transport.abort()  # whatever is still on its way is not wanted
        with contextlib.suppress(OSError):
            await asyncio.shield(self._writer.wait_closed())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises EngineAway when the engine falls silent or the connection breaks."""
        rest = b""
        while True:
            if self._body:
                *events, rest = (rest + b"".join(self._body)).split(b"\n\n")
                self._body.clear()
                for event in events:
                    if event.startswith(b"data: "):
                        yield event[6:]
            if self._is_complete:
                return
            await self._feed()

    async def content(self) -> bytes:
        """The rest of the body, whole."""
        while not self._is_complete:
            await self._feed()
        return b"".join(self._body)

    async def _feed(self) -> None:
        data = await self._read()
        if not data and not self._is_complete:
            raise EngineAway("The engine broke off the connection.", retry_after=1)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise EngineAway(f"The engine doesn't speak HTTP ({error}).") from error

    async def _read(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    return await self._reader.read(READ_BYTES)
            except TimeoutError as error:
                if not await self._is_well():
                    raise EngineAway("The engine fell silent.", retry_after=1) from error
            except OSError as error:
                raise EngineAway("The connection to the engine broke.", retry_after=1) from error

    # -- called by the parser -------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._is_complete = True


def _head(parts: SplitResult, length: int) -> bytes:
    lines = (
        f"POST {parts.path or '/'} HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        "accept: text/event-stream",
        f"content-length: {length}",
        "connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
