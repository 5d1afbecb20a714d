"""The engine client's connections: which are used again, which are closed, and what their ends say of the engine."""

import asyncio
import socket

import pytest

from service import engine_connection
from service.adapters.engine import EngineBrokeOff
from service.engine import DONE, Engine
from service.errors import EngineAway
from tests.fixtures.streams import payloads
from tests.fixtures.waiting import PATIENCE
from tests.service.raw_engine import BODY, HEAD, WHOLE, chunk, listening, raw_server


def test_a_kept_connection_that_the_engine_closed_costs_a_new_one_and_no_failure() -> None:
    async def work() -> None:
        connections = 0

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Answers once, and breaks off when it is asked again."""
            nonlocal connections
            connections += 1
            await reader.read(65536)
            writer.write(WHOLE)
            await reader.read(65536)

        async with listening(serve_one) as url:
            engine = Engine(url)
            for count in (1, 2, 3):
                assert await engine.chat(BODY) == {"choices": []}
                assert connections == count
            await engine.close()

    asyncio.run(work())


def test_connections_are_used_again_when_their_answer_came_to_its_end_and_not_before() -> None:
    async def work() -> None:
        connections = 0

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while await reader.read(65536):
                writer.write(HEAD + chunk(b"data: 1\n\n" + b"data: [DONE]\n\n") + b"0\r\n\r\n")

        async with listening(serve_one) as url:
            engine = Engine(url)
            for _ in range(3):
                assert [payload async for payload in payloads(await engine.chat_stream(BODY))] == [b"1", DONE]
            assert connections == 1
            first, second = await engine.chat_stream(BODY), await engine.chat_stream(BODY)
            assert connections == 2  # two at once
            first.abort()
            second.close()
            await asyncio.sleep(0)
            assert [payload async for payload in payloads(await engine.chat_stream(BODY))] == [b"1", DONE]
            assert connections == 2
            await engine.close()

    asyncio.run(work())


def test_connections_that_were_idle_for_too_long_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        is_closed = [asyncio.Event(), asyncio.Event()]
        served = iter(is_closed)

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            closed = next(served)
            while await reader.read(65536):
                writer.write(WHOLE)
            closed.set()

        async with listening(serve_one) as url:
            engine = Engine(url)
            await engine.chat(BODY)
            monkeypatch.setattr(engine_connection, "KEEPALIVE_SECONDS", 0.0)
            await engine.chat(BODY)
            async with asyncio.timeout(PATIENCE):
                await is_closed[0].wait()
            assert not is_closed[1].is_set()
            await engine.close()

    asyncio.run(work())


def test_a_connection_that_only_one_side_still_has_is_found_by_probes() -> None:
    async def work() -> None:
        async def answer(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(WHOLE)
            await gone.wait()

        gone = asyncio.Event()
        async with raw_server(answer) as url:
            engine = Engine(url)
            await engine.chat(BODY)
            (kept,) = engine._replies._idle
            connection = kept._transport.get_extra_info("socket")
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            for name, value in engine_connection.PROBES.items():
                if hasattr(socket, name):
                    assert connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
            gone.set()
            await engine.close()

    asyncio.run(work())


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_engine_that_goes_with_a_request_is_told_from_one_that_is_not_there(is_kept: bool) -> None:
    """Also where the connection had been idle: else it would look as if the engine had closed that."""

    async def work() -> None:
        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if is_kept:
                await reader.read(65536)
                writer.write(WHOLE)
            await reader.read(65536)
            server.close()
            writer.transport.abort()

        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        engine = Engine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        if is_kept:
            await engine.chat(BODY)
        with pytest.raises(EngineBrokeOff):
            await engine.chat(BODY)
        with pytest.raises(EngineAway) as gone:
            await engine.chat(BODY)
        assert not isinstance(gone.value, EngineBrokeOff)
        await engine.close()

    asyncio.run(work())
