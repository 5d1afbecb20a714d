"""A reloaded page goes on where it was: the trail that it keeps, and what the service says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.ui.fake_service import FakeService
from tests.ui.pressing import again, conversations, event, give, on_chat, pick, request, restored, say
from ui.chat import ChatPage
from ui.conversation import Conversation
from ui.restoring import FEEDBACK_PAGE


def test_a_reloaded_page_goes_on_where_it_was(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    pick(api_url, talk, "b")
    say(api_url, talk, "Two")
    told = event(reply=talk.turns[1].replies[0].key, good=True)
    on_chat(api_url, lambda page: page.thumb(talk, told, request()))
    again = restored(api_url, talk.view()["trail"])
    assert again.turns[0].view()["verdict"] == "b" and again.turns[1].view()["verdict"] is None
    assert [(turn.prompt, turn.reply and turn.reply.text) for turn in again.turns] == [
        ("One", fake.replies[1]),
        ("Two", fake.replies[1]),
    ]
    assert again.id == talk.id and again.trail() == talk.trail()
    assert again.turns[1].replies[0].view()["thumb"] is True and again.turns[0].replies[0].view()["thumb"] is None
    say(api_url, again, "Three")
    assert [message["content"] for message in fake.asked[-1]["messages"]][::2] == ["One", "Two", "Three"]
    assert conversations(fake) == [talk.id] * 3


def test_a_verdict_can_be_changed_after_a_reload(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    pick(api_url, talk, "b")
    talk = restored(api_url, talk.trail())
    assert pick(api_url, talk, "undo")["turns"][0]["chosen"] is None
    assert fake.feedback["fb-1"]["withdrawn"]
    assert restored(api_url, talk.trail()).turns[0].comparison is None


def test_a_pick_that_was_open_is_open_after_a_reload(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    talk = restored(api_url, talk.trail())
    assert talk.turns[0].open
    assert pick(api_url, talk, "a")["turns"][0]["verdict"] == "a"


def test_both_tries_and_which_was_better_are_there_after_a_reload(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    again(api_url, talk)
    pick(api_url, talk, "b")
    view = restored(api_url, talk.trail()).view()["turns"][0]
    assert [reply["text"] for reply in view["replies"]] == list(fake.replies)
    assert (view["chosen"], view["verdict"], view["side_by_side"]) == (0, "b", False)


@pytest.mark.parametrize(
    "trail", ["", "nonsense", "chatcmpl-7.0", "chatcmpl-1.x/.1//", None, 5, "../v1/runs.0", "~~.0"]
)
def test_a_trail_that_leads_nowhere_is_an_empty_page(fake: FakeService, api_url: str, trail: Any) -> None:
    assert restored(api_url, trail).turns == []


def test_a_reloaded_page_shows_the_newest_of_two_judgements(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    for number, good in ((1, True), (2, False)):
        give(fake, range(number, number + 1), kind="thumb", exchange_id="chatcmpl-1", good=good)
    assert restored(api_url, talk.trail()).turns[0].replies[0].view()["thumb"] is False


def test_a_reloaded_page_shows_a_judgement_however_long_ago_it_was_given(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    give(fake, range(1, 2), kind="thumb", exchange_id="chatcmpl-1", good=True)
    give(fake, range(2, 2 * FEEDBACK_PAGE + 2), kind="label", exchange_id="chatcmpl-gone", labels=["wrong"])
    assert restored(api_url, talk.trail()).turns[0].replies[0].view()["thumb"] is True


def test_what_is_sent_while_a_conversation_is_drawn_again_goes_on_with_it(fake: FakeService, api_url: str) -> None:
    talk, reloaded = Conversation(), Conversation()
    say(api_url, talk, "One")

    async def send(page: ChatPage) -> None:
        async for _ in page.send(reloaded, event(text="Two"), request()):
            pass

    async def reload_and_send(page: ChatPage) -> None:
        await asyncio.gather(page.restore(reloaded, event(trail=talk.trail()), request()), send(page))

    on_chat(api_url, reload_and_send)
    assert [turn.prompt for turn in reloaded.turns] == ["One", "Two"] and reloaded.id == talk.id
    assert [message["content"] for message in fake.asked[-1]["messages"]][::2] == ["One", "Two"]


def test_somebody_elses_trail_shows_nothing(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    assert restored(api_url, talk.trail(), session="bert").turns == []
