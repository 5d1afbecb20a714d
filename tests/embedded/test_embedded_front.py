"""The HTTP side alone, over a worker that does nothing: what happens between two of its steps."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from service.embedded.arguments import EngineArguments
from service.embedded.link import EngineLink
from service.embedded.messages import Load, Ready
from service.embedded.server import LONG_BODY, EngineServer
from service.embedded.tokenizer import Tokenizer, load_tokenizer
from tests.fixtures.waiting import PATIENCE

LONG = {"prompt": "the cat", "padding": "x" * LONG_BODY}


class IdleLink:
    """A worker that takes every adapter and must not be given a sequence."""

    failure = None
    load = Load()

    async def load_adapter(self, name: str, path: str) -> str | None:
        return None

    async def unload_adapter(self, name: str) -> str | None:
        return None

    def start(self, *sequence: Any) -> int:
        raise AssertionError("a sequence was started")


class HeldTokenizer(Tokenizer):
    """Takes as long to tokenise as the test wants it to."""

    def __init__(self, real: Tokenizer) -> None:
        self.fast = real.fast
        self.begun, self.go_on = threading.Event(), threading.Event()

    def encode(self, text: str, special: bool = True) -> list[int]:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        return super().encode(text, special)


Talk = Callable[[httpx2.AsyncClient, HeldTokenizer], Awaitable[None]]


@pytest.fixture
def talk(model_of: Callable[[str], Path]) -> Callable[[Talk], None]:
    """Run a talk with the HTTP side."""
    folder = model_of("llama")
    tokenizer = HeldTokenizer(load_tokenizer(folder))
    ready = Ready(str(folder), max_model_len=64, vocab_size=300, kv_tokens=64, kv_bytes=64)
    app = EngineServer(EngineArguments(model="tiny"), cast(EngineLink, IdleLink()), ready, tokenizer).app()

    def run(what: Talk) -> None:
        async def talking() -> None:
            transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://engine") as http:
                await asyncio.wait_for(what(http, tokenizer), 60)

        asyncio.run(talking())

    return run


def test_while_a_long_prompt_is_tokenised_others_are_answered(talk: Callable[[Talk], None]) -> None:
    async def work(http: httpx2.AsyncClient, tokenizer: HeldTokenizer) -> None:
        long = asyncio.create_task(http.post("/v1/completions", json=LONG | {"max_tokens": 65}))
        assert await asyncio.to_thread(tokenizer.begun.wait, 30)
        assert (await http.get("/health")).status_code == 200
        assert not long.done()
        tokenizer.go_on.set()
        assert (await long).status_code == 400  # it asks for more than the context holds

    talk(work)


@pytest.mark.parametrize("stream", [False, True])
def test_an_adapter_that_is_unloaded_before_its_request_begins_is_an_error_of_that_request(
    talk: Callable[[Talk], None], tmp_path: Path, stream: bool
) -> None:
    async def work(http: httpx2.AsyncClient, tokenizer: HeldTokenizer) -> None:
        await http.post("/v1/load_lora_adapter", json={"lora_name": "v1", "lora_path": str(tmp_path)})
        asked = asyncio.create_task(
            http.post("/v1/completions", json=LONG | {"model": "v1", "max_tokens": 1, "stream": stream})
        )
        assert await asyncio.to_thread(tokenizer.begun.wait, 30)
        assert (await http.post("/v1/unload_lora_adapter", json={"lora_name": "v1"})).status_code == 200
        tokenizer.go_on.set()
        answer = await asked
        assert answer.status_code == (200 if stream else 404)
        assert "v1 is not loaded" in answer.text  # and the worker was never told of it

    talk(work)


def test_a_bug_has_the_error_body_too(talk: Callable[[Talk], None]) -> None:
    async def work(http: httpx2.AsyncClient, tokenizer: HeldTokenizer) -> None:
        tokenizer.go_on.set()
        answer = await http.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 1})
        assert answer.status_code == 500
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    talk(work)
