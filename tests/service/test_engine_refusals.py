"""What an engine refuses, and what is no engine: the error that callers get, in the engine's words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from service.adapters.engine import EngineBrokeOff
from service.engine import Engine, _refusal
from service.errors import BadInput, EngineAway, EngineRefused, EngineUnavailable
from tests.service.raw_engine import BODY, raw_server, run


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


def test_what_an_engine_says_without_a_full_stop_gets_one_before_what_to_do() -> None:
    told = EngineUnavailable("The engine refused to load v1: See the root cause", "Mend that at the engine.")
    assert str(told) == "The engine refused to load v1: See the root cause. Mend that at the engine."
    for ended in ('It said "no."', "Is it there?", "All (or some.)"):
        assert str(EngineUnavailable(ended, "Look.")) == f"{ended} Look."
    assert str(EngineUnavailable("alone")) == "alone"


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
