from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.ui.calling import ANNA, using
from tests.ui.drafting import drafted, talk_about
from tests.ui.fake_service import FakeService
from ui.client import Credentials, ServiceClient, ServiceError
from ui.conversation import Reply, Turn
from ui.judging import compare, judge

Step = Callable[[ServiceClient], Awaitable[None]]


@pytest.fixture
def pair(fake: FakeService, api_url: str) -> Turn:
    talk, turn = talk_about("Hello", pair=True)
    drafted(api_url, talk, turn, count=2)
    return turn


def about(reply: Reply, kind: str, content: dict[str, Any] | None, who: Credentials = ANNA) -> Step:
    async def step(client: ServiceClient) -> None:
        await judge(client, who, reply, kind, content)

    return step


def saying(turn: Turn, verdict: str | None) -> Step:
    async def step(client: ServiceClient) -> None:
        await compare(client, ANNA, turn, verdict)

    return step


def test_a_thumb_is_given_changed_and_taken_back_as_one_feedback(fake: FakeService, api_url: str, pair: Turn) -> None:
    reply = pair.replies[1]
    using(api_url, about(reply, "thumb", {"good": True}))
    assert fake.feedback["fb-1"]["feedback"] == {
        "kind": "thumb",
        "exchange_id": "chatcmpl-1",
        "index": 1,
        "good": True,
    }
    using(api_url, about(reply, "thumb", {"good": False}))
    assert len(fake.feedback) == 1 and fake.feedback["fb-1"]["feedback"]["good"] is False
    assert reply.view()["thumb"] is False
    using(api_url, about(reply, "thumb", None))
    assert fake.feedback["fb-1"]["withdrawn"] and reply.view()["thumb"] is None


def test_what_was_withdrawn_elsewhere_is_given_anew(fake: FakeService, api_url: str, pair: Turn) -> None:
    reply = pair.replies[0]
    using(api_url, about(reply, "thumb", {"good": True}))
    fake.feedback["fb-1"]["withdrawn"] = True
    using(api_url, about(reply, "thumb", {"good": False}))
    assert reply.given["thumb"]["id"] == "fb-2"
    del fake.owners["fb-2"], fake.feedback["fb-2"]
    using(api_url, about(reply, "thumb", None))
    assert "thumb" not in reply.given


def test_kinds_stand_beside_each_other(fake: FakeService, api_url: str, pair: Turn) -> None:
    for kind, content in (("thumb", {"good": False}), ("critique", {"text": "Wrong."}), ("score", {"score": 2})):
        using(api_url, about(pair.replies[0], kind, content))
    assert [stored["feedback"]["kind"] for stored in fake.feedback.values()] == ["thumb", "critique", "score"]


def test_the_page_shows_nothing_that_the_service_refused(fake: FakeService, api_url: str, pair: Turn) -> None:
    with pytest.raises(ServiceError, match="equals the reply"):
        using(api_url, about(pair.replies[0], "correction", {"text": fake.replies[0]}))
    with pytest.raises(ServiceError, match="There is no"):
        using(api_url, about(pair.replies[0], "thumb", {"good": True}, who=Credentials(cookie="somebody-else")))
    assert not pair.replies[0].given and not fake.feedback


def test_a_reply_that_is_not_stored_can_not_be_judged(fake: FakeService, api_url: str, pair: Turn) -> None:
    pair.replies[0].kept = False
    with pytest.raises(ServiceError, match="was not finished"):
        using(api_url, about(pair.replies[0], "thumb", {"good": True}))
    with pytest.raises(ServiceError, match="was not finished"):
        using(api_url, saying(pair, "a"))
    assert not fake.feedback


def test_a_comparison_names_both_replies_and_can_be_changed(fake: FakeService, api_url: str, pair: Turn) -> None:
    using(api_url, saying(pair, "b"))
    told = fake.feedback["fb-1"]["feedback"]
    assert (told["a"], told["b"], told["verdict"]) == (pair.replies[0].about(), pair.replies[1].about(), "b")
    using(api_url, saying(pair, "tie"))
    assert len(fake.feedback) == 1 and fake.feedback["fb-1"]["feedback"]["verdict"] == "tie"
    using(api_url, saying(pair, None))
    assert fake.feedback["fb-1"]["withdrawn"] and pair.comparison is None


@pytest.mark.parametrize("verdict", ["c", "A", ""])
def test_a_verdict_that_does_not_exist_is_refused(fake: FakeService, api_url: str, pair: Turn, verdict: str) -> None:
    with pytest.raises(ServiceError):
        using(api_url, saying(pair, verdict))
    assert not fake.feedback


def test_one_answer_can_not_be_compared(fake: FakeService, api_url: str) -> None:
    with pytest.raises(ServiceError, match="no two answers"):
        using(api_url, saying(Turn("Hello"), "a"))
