"""The engine client, and the one seam: the same checks against the fake engine and the embedded one."""

import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import orjson
import pytest

from service.chat.recording import Recording
from service.engine import DONE, Engine
from service.errors import EngineRefused, EngineUnavailable
from tests.fixtures.serving import serve
from tests.fixtures.streams import payloads
from tests.fixtures.waiting import PATIENCE, until
from tests.service.fake_engine import FakeEngine
from tests.service.raw_engine import BODY, run


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


def test_what_follows_in_an_ordinary_request_is_as_likely_as_its_score_says(engine_url: str) -> None:
    async def work(engine: Engine) -> None:
        name = (await engine.base()).name
        token, logprob = await engine.next_token(name, [1, 4, 5])
        [scored] = await engine.score(name, [1, 4, 5], [token])
        assert logprob <= 0 and abs(logprob - scored) < 0.02  # nats

    run(engine_url, work)


def test_an_engine_that_does_not_say_how_likely_a_token_is_proves_nothing() -> None:
    fake = FakeEngine()
    fake.tells_logprobs = False

    async def work(engine: Engine) -> None:
        with pytest.raises(EngineUnavailable, match="does not say what it goes on with"):
            await engine.next_token("fake", [1, 4, 5])

    with serve(fake.app) as url:
        run(url, work)


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


def test_an_engine_that_is_away_is_unavailable_and_says_when_to_try_again() -> None:
    async def work(engine: Engine) -> None:
        assert not await engine.is_healthy()
        with pytest.raises(EngineUnavailable) as caught:
            await engine.chat(BODY)
        assert caught.value.retry_after == 1 and caught.value.status == 503

    run("http://127.0.0.1:9", work)
