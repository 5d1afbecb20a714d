"""The engine client, and the one seam: the same checks against the fake engine and the embedded one."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import count
from typing import Any, TypeVar

import httpx2
import orjson
import pytest

from service import engine_connection
from service.adapters.engine import EngineBrokeOff
from service.chat.recording import Recording
from service.engine import DONE, Engine, _refusal
from service.errors import BadInput, EngineAway, EngineRefused, EngineUnavailable
from tests.fixtures.serving import serve
from tests.fixtures.streams import payloads
from tests.fixtures.waiting import PATIENCE, until
from tests.service.fake_engine import FakeEngine

T = TypeVar("T")
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "logprobs": True,
    "top_logprobs": 0,
    "max_tokens": 6,
    "n": 2,
}


@pytest.fixture(scope="module", params=["fake", "embedded"])
def engine_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "fake":
        with serve(FakeEngine().app) as url:
            yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "service.embedded", "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: run(url, Engine.is_healthy) or process.poll() is not None)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def run(url: str, work: Callable[[Engine], Awaitable[T]], timeout: float = PATIENCE) -> T:
    async def with_engine() -> T:
        engine = Engine(url, timeout)
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(with_engine())


async def ask(engine: Engine) -> dict[str, Any]:
    return BODY | {"model": (await engine.base()).name}


def recording() -> Recording:
    return Recording("chatcmpl-1", "hone:base", "base", show_logprobs=False, show_token_ids=False)


def check_recorded(kept: Recording) -> None:
    assert kept.prompt_token_ids and sorted(kept.replies) == [0, 1] and kept.complete
    for reply in kept.replies.values():
        assert len(reply.token_ids) == len(reply.logprobs) > 0
        assert all(logprob <= 0 for logprob in reply.logprobs)
        assert reply.finish_reason in ("stop", "length")


def test_it_says_that_it_is_healthy_and_what_it_holds(engine_url: str) -> None:
    assert run(engine_url, Engine.is_healthy)
    base, *adapters = run(engine_url, Engine.models)
    assert base.parent is None and base.max_model_len and adapters == []


def test_a_whole_answer_is_recorded_token_by_token(engine_url: str) -> None:
    async def work(engine: Engine) -> dict[str, Any]:
        return await engine.chat(await ask(engine))

    kept = recording()
    shown = kept.take(run(engine_url, work))
    check_recorded(kept)
    assert [choice["message"]["content"] for choice in shown["choices"]] == [kept.replies[i].text for i in (0, 1)]
    assert shown["choices"][0]["logprobs"] is None and "token_ids" not in shown["choices"][0]


def test_a_stream_is_recorded_token_by_token_and_ends_with_done(engine_url: str) -> None:
    async def work(engine: Engine) -> list[bytes]:
        return [payload async for payload in payloads(await engine.chat_stream(await ask(engine)))]

    *events, done = run(engine_url, work)
    kept = recording()
    for event in events:
        kept.take(orjson.loads(event))
    assert done == DONE
    check_recorded(kept)


def test_every_request_to_an_adapter_carries_its_salt_and_no_other_does() -> None:
    fake, salt = FakeEngine(), "5a" * 32
    fake.adapters |= {"v1": "/adapters/v1", "v2": "/adapters/v2"}

    async def work(engine: Engine) -> None:
        engine.salt_cache("v1", salt)
        for model in ("v1", "v2", "fake"):
            body = BODY | {"model": model}
            await engine.chat(body)
            assert [payload async for payload in payloads(await engine.chat_stream(body))][-1] == DONE
            await engine.score(model, [1, 2], [3])

    with serve(fake.app) as url:
        run(url, work)
    assert [body.get("cache_salt") for body in fake.bodies] == [salt] * 2 + [None] * 4
    assert [body.get("cache_salt") for body in fake.completions] == [salt, None, None]


def test_a_salt_is_taken_by_either_engine(engine_url: str) -> None:
    async def work(engine: Engine) -> None:
        name = (await engine.base()).name
        engine.salt_cache(name, "5a" * 32)
        kept = recording()
        kept.take(await engine.chat(await ask(engine)))
        check_recorded(kept)
        assert len(await engine.score(name, [1, 4], [5, 2])) == 2

    run(engine_url, work)


def test_scores_are_those_of_the_sampled_tokens(engine_url: str) -> None:
    async def work(engine: Engine) -> None:
        kept = recording()
        kept.take(await engine.chat(await ask(engine)))
        reply = kept.replies[0]
        scored = await engine.score((await engine.base()).name, kept.prompt_token_ids, reply.token_ids)
        assert len(scored) == len(reply.token_ids)
        for sampled, again in zip(reply.logprobs, scored, strict=True):
            assert abs(sampled - again) < 0.02  # nats: batches of other shapes add up in another order
        assert await engine.score("whatever", [1, 2], []) == ()

    run(engine_url, work)


def test_an_unknown_model_or_adapter_is_refused_with_404(engine_url: str) -> None:
    async def work(engine: Engine) -> None:
        body = BODY | {"model": "no-such-model"}
        refused: list[Callable[[], Awaitable[Any]]] = [
            lambda: engine.chat(body),
            lambda: engine.chat_stream(body),
            lambda: engine.unload_adapter("v77"),
            lambda: engine.score("no-such-model", [1], [2]),
        ]
        for call in refused:
            with pytest.raises(EngineRefused) as caught:
                await call()
            assert caught.value.status == 404

    run(engine_url, work)


def test_closing_a_stream_leaves_the_engine_free_for_others(engine_url: str) -> None:
    async def work(engine: Engine) -> None:
        body = await ask(engine) | {"max_tokens": 500, "n": 1}
        for _ in range(3):
            async with aclosing(payloads(await engine.chat_stream(body))) as stream:
                async for _payload in stream:
                    break
        await engine.chat(await ask(engine))

    run(engine_url, work)


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_an_engine_that_is_away_is_unavailable_and_says_when_to_try_again() -> None:
    async def work(engine: Engine) -> None:
        assert not await engine.is_healthy()
        with pytest.raises(EngineUnavailable) as caught:
            await engine.chat(BODY)
        assert caught.value.retry_after == 1 and caught.value.status == 503

    run("http://127.0.0.1:9", work)


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


@asynccontextmanager
async def answering(status: int, content: bytes) -> AsyncIterator[Engine]:
    """Whatever it is asked."""

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        head = b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (status, len(content)) + content)

    async with raw_server(answer) as url:
        engine = Engine(url)
        yield engine
        await engine.close()


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"choices": "none"}', b"{}"])
def test_what_is_no_engine_is_called_so(content: bytes) -> None:
    async def work() -> None:
        async with answering(200, content) as engine:
            for ask in (engine.models(), engine.base(), engine.chat(BODY), engine.score("base", [1], [2])):
                with pytest.raises(EngineUnavailable, match="doesn't speak vLLM's API"):
                    await ask

    asyncio.run(work())


def test_what_speaks_no_http_is_away() -> None:
    async def work() -> None:
        async def answer(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")

        async with raw_server(answer) as url:
            engine = Engine(url)
            with pytest.raises(EngineAway):
                await engine.chat(BODY)
            await engine.close()

    asyncio.run(work())


def test_replies_to_a_prompt_that_was_not_kept_can_not_be_scored() -> None:
    async def work(engine: Engine) -> None:
        with pytest.raises(BadInput, match="not kept"):
            await engine.score("base", [], [1, 2])

    run("http://127.0.0.1:9", work)


@pytest.mark.parametrize(
    ("status", "content", "error", "words"),
    [
        (400, b'{"error": {"message": "too long", "param": "prompt"}}', EngineRefused, "too long"),
        (400, b'{"object": "error", "message": "bad", "code": 400}', EngineRefused, "bad"),
        (404, b"no such thing", EngineRefused, "no such thing"),
        (401, b'"Unauthorized"', EngineUnavailable, "401"),
        (500, b'{"error": "boom"}', EngineUnavailable, "500"),
        (503, b"", EngineUnavailable, "503"),
    ],
)
def test_refusals_keep_their_words(status: int, content: bytes, error: type[Exception], words: str) -> None:
    async def work() -> None:
        async with answering(status, content) as engine:
            for asking in (engine.chat, engine.chat_stream):
                with pytest.raises(error, match=words):
                    await asking(BODY)

    asyncio.run(work())


@pytest.mark.parametrize("is_well", [True, False])
def test_a_load_that_fails_in_an_engine_that_is_well_is_a_refusal(is_well: bool) -> None:
    """vLLM answers 500 to a rank above its own; an engine that is dead does so, too."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/health":
            return httpx2.Response(200 if is_well else 503)
        return httpx2.Response(500, json={"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16"}})

    async def work() -> None:
        engine = Engine("http://engine", transport=httpx2.MockTransport(answer))
        with pytest.raises(EngineRefused if is_well else EngineBrokeOff, match="rank 64"):
            await engine.load_adapter("v1", "/adapters/v1")
        await engine.close()

    asyncio.run(work())


def test_an_engine_that_is_being_stopped_says_nothing_about_an_adapter() -> None:
    """vLLM, which goes on with what it has begun, says that it is well, and gives up what comes."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/load_lora_adapter":
            return httpx2.Response(500, json={"error": {"message": "Server shutting down"}})
        return httpx2.Response(200, json={"choices": [{"finish_reason": "abort", "prompt_logprobs": None}]})

    async def work() -> None:
        engine = Engine("http://engine", transport=httpx2.MockTransport(answer))
        for asking in (engine.load_adapter("v1", "/adapters/v1"), engine.score("v1", [1], [2])):
            with pytest.raises(EngineAway):
                await asking
        await engine.close()

    asyncio.run(work())


def test_what_does_not_fit_the_context_has_openais_code() -> None:
    said = b'{"error": {"message": "This model\'s maximum context length is 8 tokens."}}'
    assert _refusal(400, said).body()["error"]["code"] == "context_length_exceeded"
    assert _refusal(404, said).body()["error"]["code"] == "engine_error"
