"""What simulated people say to a service, under which name, and how its failures are counted."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from learner.pretrain.questions import Prompt
from learner.simulate import people
from learner.simulate.client import Client, ServiceRefused
from learner.simulate.tastes import load_taste
from tests.learner.pretend_service import Service


def with_client(service: Service, use: Any) -> tuple[Any, Client]:
    async def run() -> tuple[Any, Client]:
        async with Client("http://127.0.0.1:1", "key", httpx2.MockTransport(service)) as client:
            return await use(client), client

    return asyncio.run(run())


def nothing(what: str, done: int, of: int) -> None: ...


def test_people_compare_until_they_have_said_enough() -> None:
    service = Service()
    prompts = [Prompt(f"question {number}", "t") for number in range(50)]
    given, client = with_client(
        service, lambda c: people.give_comparisons(c, load_taste("short"), prompts, 10, nothing)
    )
    assert given == len(service.feedback) == 10
    assert {(one["kind"], one["verdict"], one["a"]["index"], one["b"]["index"]) for one in service.feedback} == {
        ("comparison", "a", 0, 1)
    }
    assert client.counts.failed == 0


def test_people_say_nothing_of_replies_they_like_the_same() -> None:
    service = Service()
    prompts = [Prompt("hello", "t")] * 20
    given, _ = with_client(service, lambda c: people.give_comparisons(c, load_taste("safe"), prompts, 10, nothing))
    assert given == len(service.feedback) == 0


def test_a_teacher_corrects_only_what_is_wrong() -> None:
    service = Service()
    prompts = [Prompt("How is it?", "t", ("short",)), Prompt("How is it, then?", "t", ("long",))]
    corrected, _ = with_client(service, lambda c: people.give_corrections(c, prompts, 10, nothing))
    assert [prompt.answers for prompt in corrected] == [("long",)]
    assert [one["text"] for one in service.feedback] == ["It is long."]


@pytest.mark.parametrize(
    ("stream", "failed", "interrupted"),
    [
        (b"data: {}\n\ndata: [DONE]\n\n", 0, 0),
        (b'data: {}\n\ndata: {"error": {"message": "the engine failed"}}\n\n', 0, 1),
        (b'data: {}\n\ndata: {"error": {"message": "the engine failed"}}\n\ndata: [DONE]\n\n', 0, 1),
        (b"data: {}\n\n", 0, 1),
        (b"", 1, 0),
    ],
)
def test_a_stream_that_breaks_off_is_counted(stream: bytes, failed: int, interrupted: int) -> None:
    _, client = with_client(Service(stream), lambda c: c.stream("hone", "hello", "ann"))
    assert (client.counts.requests, client.counts.failed, client.counts.interrupted) == (1, failed, interrupted)


def test_a_refusal_is_counted_and_told_in_the_services_words() -> None:
    async def use(client: Client) -> None:
        with pytest.raises(ServiceRefused, match=r"503: no engine"):
            await client.chat("hone", "hello", "ann")

    _, client = with_client(Service(refuse=True), use)
    assert (client.counts.requests, client.counts.failed) == (1, 1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://hone.internal"])
@pytest.mark.parametrize(
    ("nameless", "sent"), [(200, ("ann", None)), (401, (None, "Bearer key")), (502, (None, "Bearer key"))]
)
def test_people_go_by_name_where_the_service_lets_them_and_else_by_the_key(
    url: str, nameless: int, sent: tuple[str | None, str | None]
) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def service(request: httpx2.Request) -> httpx2.Response:
        callers = request.headers.get("x-hone-user"), request.headers.get("authorization")
        if request.url.path == "/v1/whoami":
            assert callers == (None, None)
            return httpx2.Response(nameless, json={})
        seen.append(callers)
        return Service()(request)

    async def run() -> None:
        async with Client(url, "key", httpx2.MockTransport(service)) as client:
            await client.check()
            await client.chat("hone", "hello", "ann")
            await client.stream("hone", "hello", "ann")

    asyncio.run(run())
    assert seen == [(None, "Bearer key"), (None, "Bearer key"), sent, sent]


def test_a_service_that_revises_every_reply_is_not_measured() -> None:
    def service(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "hone", "constitutional": "always"}]})
        return Service()(request)

    async def run() -> None:
        async with Client("http://127.0.0.1:1", "key", httpx2.MockTransport(service)) as client:
            await client.check()

    with pytest.raises(ServiceRefused, match=r"constitution\.serve"):
        asyncio.run(run())
