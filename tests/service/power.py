"""An engine that can be killed and started again on its port: a wire to it that is cut, as a dead process cuts it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from tests.fixtures.waiting import PATIENCE


class Power:
    """Forwards what comes to `url` to an engine, until it is switched off: connections are reset, then refused."""

    def __init__(self, engine_url: str) -> None:
        self._to = urlsplit(engine_url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._wires: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._port = 0
        self.on()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def on(self) -> None:
        self._do(self._listen())

    def off(self) -> None:
        self._do(self._cut())

    def close(self) -> None:
        self.off()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        # An asyncio server that is closed while it accepts forgets to close what it was accepting.
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=100)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            accepted, _ = listener.accept()
            wire = self._loop.create_task(self._connected(accepted))
            self._wires.add(wire)
            wire.add_done_callback(self._wires.discard)
            wire.add_done_callback(lambda _: accepted.close())  # it may be cut before it begins

    async def _cut(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        cut = tuple(self._wires)
        for wire in cut:
            wire.cancel()
        await asyncio.gather(*cut, return_exceptions=True)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, accepted: socket.socket) -> None:
        async with AsyncExitStack() as stack:
            ends = []
            for where in ({"sock": accepted}, {"host": self._to.hostname, "port": self._to.port}):
                reader, writer = await asyncio.open_connection(**where)
                stack.callback(writer.transport.abort)
                ends.append((reader, writer))
            (from_caller, to_caller), (from_engine, to_engine) = ends
            await asyncio.gather(self._pump(from_caller, to_engine), self._pump(from_engine, to_caller))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def powered(engine_url: str) -> Iterator[Power]:
    power = Power(engine_url)
    try:
        yield power
    finally:
        power.close()
