"""The service's own client over each engine: what it makes of the answers, whole and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from service.chat.recording import Recording
from service.engine import DONE, Engine
from service.errors import EngineRefused
from tests.embedded.serving import GENERATED, eventually, metric, until_idle
from tests.engine_contract.asking import PROMPT, chat, gap, true_scores
from tests.fixtures.engines import CONTEXT, ServedEngine
from tests.fixtures.streams import payloads
from tests.fixtures.waiting import PATIENCE

T = TypeVar("T")


def ask(engine: ServedEngine, work: Callable[[Engine], Awaitable[T]]) -> T:
    async def with_client() -> T:
        client = Engine(engine.url, timeout_seconds=PATIENCE)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(with_client())


def check_recorded(kept: Recording) -> None:
    assert kept.prompt_token_ids == PROMPT and sorted(kept.replies) == [0, 1] and kept.complete
    for reply in kept.replies.values():
        assert len(reply.token_ids) == len(reply.logprobs) > 0
        assert all(logprob <= 0 for logprob in reply.logprobs)
        assert reply.finish_reason in ("stop", "length") and reply.text


def recording() -> Recording:
    return Recording("chatcmpl-1", "hone:base", "base", show_logprobs=False, show_token_ids=False)


BODY: dict[str, Any] = chat(n=2, temperature=1.0, logprobs=True, top_logprobs=0)


def test_what_it_holds_is_read(engine: ServedEngine, adapter: Path, name: str) -> None:
    async def story(client: Engine) -> None:
        assert await client.is_healthy()
        base = await client.base()
        assert (base.name, base.parent, base.max_model_len) == ("sprout", None, CONTEXT)
        await client.load_adapter(name, str(adapter))
        held = [model for model in await client.models() if model.parent is not None]
        assert [(model.name, model.path, model.parent) for model in held] == [(name, str(adapter), "sprout")]
        await client.unload_adapter(name)
        assert all(model.parent is None for model in await client.models())

    ask(engine, story)


def test_a_whole_answer_is_recorded_token_by_token(engine: ServedEngine) -> None:
    kept = recording()
    kept.take(ask(engine, lambda client: client.chat(BODY)))
    check_recorded(kept)


def test_a_stream_is_recorded_token_by_token(engine: ServedEngine) -> None:
    kept = recording()

    async def story(client: Engine) -> bytes:
        payload = b""
        async for payload in payloads(await client.chat_stream(BODY)):
            if payload != DONE:
                kept.take(orjson.loads(payload))
        return payload

    assert ask(engine, story) == DONE
    check_recorded(kept)


def test_scores_are_those_of_the_reply_under_the_adapter(engine: ServedEngine, adapter: Path, name: str) -> None:
    reply = [53, 303, 337, 274, 2]

    async def story(client: Engine) -> tuple[float, ...]:
        await client.load_adapter(name, str(adapter))
        return await client.score(name, PROMPT, reply)

    found = ask(engine, story)
    assert gap(found, true_scores([*PROMPT, *reply], adapter)[-len(reply) :]) < engine.close_to


def test_refusals_keep_their_status(engine: ServedEngine, tmp_path: Path) -> None:
    async def refused(work: Awaitable[Any]) -> int:
        with pytest.raises(EngineRefused) as caught:
            await work
        return caught.value.status

    async def story(client: Engine) -> None:
        unknown = BODY | {"model": "v999"}
        assert await refused(client.chat(unknown)) == 404
        assert await refused(client.chat_stream(unknown)) == 404
        assert await refused(client.score("v999", [1, 2], [3])) == 404
        assert await refused(client.unload_adapter("v999")) == 404
        assert await refused(client.load_adapter("v999", str(tmp_path / "nothing"))) == 404
        assert await refused(client.chat(BODY | {"temperature": -1})) == 400

    ask(engine, story)


def test_closing_a_stream_tells_the_engine_to_stop(engine: ServedEngine) -> None:
    rows, tokens = 128, CONTEXT - len(PROMPT)  # sixteen at a time: many seconds of work, if nobody stopped it
    endless = BODY | {"max_tokens": tokens, "ignore_eos": True, "n": rows}
    before = metric(engine.http, GENERATED)

    async def story(client: Engine) -> None:
        with closing(await client.chat_stream(endless)) as answer:
            assert await answer.events()
            eventually(lambda: metric(engine.http, GENERATED) > before)

    ask(engine, story)
    until_idle(engine.http)
    assert metric(engine.http, GENERATED) - before < rows * tokens / 2
