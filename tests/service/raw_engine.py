"""Work with an engine's client, and servers that write to it, byte by byte, whatever a test wants."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, TypeVar

from service.engine import Engine
from tests.fixtures.waiting import PATIENCE

T = TypeVar("T")
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "logprobs": True,
    "top_logprobs": 0,
    "max_tokens": 6,
    "n": 2,
}


def run(url: str, work: Callable[[Engine], Awaitable[T]], timeout: float = PATIENCE) -> T:
    async def with_engine() -> T:
        engine = Engine(url, timeout)
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(with_engine())


Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(converse: Conversation) -> AsyncIterator[str]:
    """A server that holds a conversation of the test's with whoever connects; its connections end with the block."""
    conversations: set[asyncio.Task[None]] = set()

    async def converse_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await converse(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the engine client, or the test, has ended it
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async with await asyncio.start_server(converse_and_close, "127.0.0.1", 0) as server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            for task in conversations:
                task.cancel()
            await asyncio.gather(*conversations)


@asynccontextmanager
async def raw_server(answers: Callable[[asyncio.StreamWriter, int], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that writes to its n-th connection what the test wants it to, after a request came."""
    numbers = count()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        await reader.read(65536)
        await answers(writer, number)

    async with listening(serve_one) as url:
        yield url


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n" + b'{"choices": []}'


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)
