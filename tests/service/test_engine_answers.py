"""Answers of an engine as they come: cut anywhere, late, broken off, or faster than anybody reads."""

import asyncio

import pytest

from service.engine import DONE, Engine
from service.errors import EngineUnavailable
from tests.fixtures.streams import payloads
from tests.fixtures.waiting import PATIENCE
from tests.service.raw_engine import BODY, HEAD, WHOLE, chunk, listening, raw_server


def test_events_are_whole_however_the_bytes_are_cut() -> None:
    async def work() -> None:
        async def answer(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(HEAD + chunk(b'data: {"a"') + chunk(b": 1}\n") + chunk(b"\ndata: 2\n\n: ping\n\nda"))
            await writer.drain()
            writer.write(chunk(b"ta: [DONE]\n\n") + b"0\r\n\r\n")

        async with raw_server(answer) as url:
            engine = Engine(url)
            stream = payloads(await engine.chat_stream(BODY))
            assert [payload async for payload in stream] == [b'{"a": 1}', b"2", DONE]
            await engine.close()

    asyncio.run(work())


@pytest.mark.parametrize("silent", [True, False])
def test_a_stream_that_breaks_or_falls_silent_raises(silent: bool) -> None:
    async def work() -> None:
        seen_all, ended = asyncio.Event(), asyncio.Event()

        async def answer(writer: asyncio.StreamWriter, number: int) -> None:
            if number > 0:
                writer.write(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")
                return
            writer.write(HEAD + chunk(b"data: 1\n\n"))
            await writer.drain()
            if silent:
                await seen_all.wait()
            ended.set()

        async with raw_server(answer) as url:
            engine = Engine(url, silence_seconds=0.2)
            seen = []
            with pytest.raises(EngineUnavailable):
                async for payload in payloads(await engine.chat_stream(BODY)):
                    seen.append(payload)
            assert seen == [b"1"]
            seen_all.set()
            await ended.wait()
            await engine.close()

    asyncio.run(work())


@pytest.mark.parametrize("is_well", [True, False])
def test_a_whole_answer_may_take_longer_than_any_silence_while_the_engine_is_well(is_well: bool) -> None:
    async def work() -> None:
        asked_twice, gone = asyncio.Event(), asyncio.Event()

        async def answer(writer: asyncio.StreamWriter, number: int) -> None:
            if number > 0:
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % (200 if is_well else 503))
                if number > 1:
                    asked_twice.set()
                return
            await (asked_twice if is_well else gone).wait()
            writer.write(WHOLE)

        async with raw_server(answer) as url:
            engine = Engine(url, silence_seconds=0.05)
            if is_well:
                assert await engine.chat(BODY) == {"choices": []}
            else:
                with pytest.raises(EngineUnavailable, match="fell silent"):
                    await engine.chat(BODY)
            gone.set()
            await engine.close()

    asyncio.run(work())


def test_an_answer_that_comes_while_the_engine_is_asked_whether_it_is_well_is_seen_at_once() -> None:
    async def work() -> None:
        asked, answered, read = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def answer(writer: asyncio.StreamWriter, number: int) -> None:
            if number == 0:
                await asked.wait()
                writer.write(WHOLE)
                await writer.drain()
                answered.set()
            else:
                asked.set()
                await answered.wait()
                await asyncio.sleep(0.05)  # for the answer to arrive first
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await read.wait()  # the connections stay open

        async with raw_server(answer) as url:
            engine = Engine(url, silence_seconds=0.2)
            async with asyncio.timeout(PATIENCE):
                assert await engine.chat(BODY) == {"choices": []}
            read.set()
            await engine.close()

    asyncio.run(work())


def test_a_stream_waits_in_line_for_as_long_as_the_engine_is_well() -> None:
    async def work() -> None:
        asked_twice = asyncio.Event()

        async def answer(writer: asyncio.StreamWriter, number: int) -> None:
            if number > 0:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                if number > 1:
                    asked_twice.set()
                return
            writer.write(HEAD)
            await asked_twice.wait()
            writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

        async with raw_server(answer) as url:
            engine = Engine(url, silence_seconds=0.05)
            assert [payload async for payload in payloads(await engine.chat_stream(BODY))] == [DONE]
            await engine.close()

    asyncio.run(work())


def test_what_nobody_reads_is_left_with_the_engine() -> None:
    """A caller who reads slowly must not fill the service's memory."""

    async def work() -> None:
        piece, sent, most = chunk(b"data: " + b"x" * 65536 + b"\n\n"), 0, 1000

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.read(65536)
            writer.write(HEAD)
            while sent < most:
                writer.write(piece)
                await writer.drain()
                sent += 1
            writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            await writer.drain()

        async with listening(serve_one) as url:
            engine = Engine(url)
            answer, before = await engine.chat_stream(BODY), -1
            while sent > before:  # until nothing more gets through
                before = sent
                await asyncio.sleep(0.05)
            assert sent < most
            *events, done = [payload async for payload in payloads(answer)]
            assert len(events) == most and done == DONE
            await engine.close()

    asyncio.run(work())
