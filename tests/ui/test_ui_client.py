from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from tests.ui.calling import ANNA, using
from tests.ui.fake_service import FakeService
from ui.client import Credentials, Delta, ServiceClient, ServiceError, refusal

HELLO = [{"role": "user", "content": "Hello"}]


def chat(api_url: str, replies: int = 1) -> list[Delta]:
    async def collect(client: ServiceClient) -> list[Delta]:
        return [delta async for delta in client.chat(ANNA, HELLO, "conv-1", replies)]

    return using(api_url, collect)


def test_a_reply_comes_in_pieces_that_name_exchange_and_adapter(fake: FakeService, api_url: str) -> None:
    deltas = chat(api_url)
    assert "".join(delta.text for delta in deltas) == fake.replies[0]
    assert len(deltas) > len(fake.replies[0])
    assert {(delta.exchange_id, delta.adapter) for delta in deltas} == {("chatcmpl-1", "base")}
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]


def test_two_replies_come_interleaved_and_told_apart_by_index(fake: FakeService, api_url: str) -> None:
    deltas = chat(api_url, replies=2)
    for index in (0, 1):
        assert "".join(delta.text for delta in deltas if delta.index == index) == fake.replies[index]
    texts = [delta.index for delta in deltas if delta.text]
    assert texts[:4] == [0, 1, 0, 1]


def test_the_service_is_told_the_conversation(fake: FakeService, api_url: str) -> None:
    chat(api_url)
    assert fake.asked[0]["hone"] == {"conversation_id": "conv-1"}


def test_the_browsers_credentials_are_passed_on_and_no_others(fake: FakeService, api_url: str) -> None:
    chat(api_url)
    assert fake.asked[0]["caller"] == "anna"
    key = Credentials(authorization="Bearer the-operator")
    assert using(api_url, lambda client: client.who_am_i(key))["role"] == "operator"
    assert using(api_url, lambda client: client.who_am_i(Credentials()))["caller"] == "name:local"


@pytest.mark.parametrize(
    ("cookie", "found"),
    [
        ("hone_session=abc", "abc"),
        ("theme=dark; hone_session=hs.a-b_c.d; x=1", "hs.a-b_c.d"),
        ("hone_session_not=abc", None),
        ("", None),
        ("hone_session=", None),
        ("=; ;;; hone_session", None),
    ],
)
def test_only_the_session_cookie_is_taken_from_a_request(cookie: str, found: str | None) -> None:
    assert (Credentials.of({"cookie": cookie}).cookie or None) == found


def test_no_credentials_are_false() -> None:
    assert not Credentials.of({}) and Credentials(cookie="x") and Credentials(authorization="Bearer x")


def test_an_error_before_the_stream_says_what_the_service_said(fake: FakeService, api_url: str) -> None:
    fake.broken = "engine"
    with pytest.raises(ServiceError, match="The engine is away") as caught:
        chat(api_url)
    assert (caught.value.status, caught.value.code) == (503, "engine_unavailable")


def test_an_error_in_mid_stream_is_an_error(fake: FakeService, api_url: str) -> None:
    fake.broken = "midway"
    with pytest.raises(ServiceError, match="stopped in mid-reply"):
        chat(api_url)


def test_a_stream_that_ends_without_done_is_an_error(fake: FakeService, api_url: str) -> None:
    fake.broken = "truncated"
    with pytest.raises(ServiceError, match="broke off"):
        chat(api_url)


def test_a_service_that_is_away_is_named() -> None:
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9 can't be reached") as caught:
        chat("http://127.0.0.1:9")
    assert caught.value.status == 0


def answering(handler: Callable[[httpx2.Request], httpx2.Response]) -> ServiceClient:
    return ServiceClient("http://service", httpx2.MockTransport(handler))


async def ask(client: ServiceClient) -> object:
    return await client.who_am_i(ANNA)


def test_something_else_that_answers_is_not_taken_for_the_service() -> None:
    with pytest.raises(ServiceError, match="not Hone's service"):
        asyncio.run(ask(answering(lambda request: httpx2.Response(200, text="<html>"))))


def test_a_timeout_is_told_in_plain_words() -> None:
    def slow(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("", request=request)

    with pytest.raises(ServiceError, match="took too long"):
        asyncio.run(ask(answering(slow)))


def test_a_garbled_event_is_an_error() -> None:
    async def collect(client: ServiceClient) -> AsyncIterator[Delta] | None:
        async for _ in client.chat(ANNA, HELLO, "conv-1"):
            pass
        return None

    with pytest.raises(ServiceError, match="garbled"):
        asyncio.run(collect(answering(lambda request: httpx2.Response(200, text='data: {"half\n\n'))))


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"error": "text"}', '{"error": {}}', '{"detail": 1}'])
def test_an_error_without_openais_body_still_has_a_message(body: str) -> None:
    assert "HTTP 500" in refusal(500, body).message
    assert "Reload" in refusal(401, body).message


def test_a_name_can_not_leave_its_path(fake: FakeService) -> None:
    paths: list[str] = []

    def note(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.raw_path.decode())
        return httpx2.Response(204)

    asyncio.run(answering(note).withdraw_feedback(ANNA, "../../keys?x="))
    assert paths == ["/v1/feedback/..%2F..%2Fkeys%3Fx%3D"]
