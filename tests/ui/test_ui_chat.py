"""The page to chat on: what is asked, what is refused, what waits for what, and which conversation it belongs to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.ui.fake_service import FakeService
from tests.ui.pressing import again, conversations, event, on_chat, request, say
from ui.chat import MAX_PROMPT, ChatPage
from ui.client import ServiceClient
from ui.conversation import Conversation


def test_a_chat_goes_on_with_what_was_said(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "  One  ")
    view = say(api_url, talk, "Two")
    assert [turn["prompt"] for turn in view["turns"]] == ["One", "Two"] and not view["busy"]
    assert [message["content"] for message in fake.asked[1]["messages"]] == ["One", fake.replies[0], "Two"]
    assert conversations(fake) == [talk.id, talk.id]


def test_what_is_pressed_on_a_page_that_the_server_does_not_know_is_refused(fake: FakeService, api_url: str) -> None:
    view = say(api_url, Conversation(), "Three", seen=7)
    assert view["lost"] and not view["turns"] and not fake.asked


def test_a_browser_without_a_session_is_told_to_reload_and_nothing_is_asked(fake: FakeService, api_url: str) -> None:
    view = say(api_url, Conversation(), "Hello", session=None)
    assert "no session" in view["turns"][0]["error"] and not fake.asked


@pytest.mark.parametrize("text", ["", "   \n", None, 7, ["x"]])
def test_nothing_is_asked_for_an_empty_prompt(fake: FakeService, api_url: str, text: Any) -> None:
    assert not say(api_url, Conversation(), text)["turns"] and not fake.asked


def test_a_prompt_that_is_too_long_is_refused_with_its_length(fake: FakeService, api_url: str) -> None:
    view = say(api_url, Conversation(), "x" * (MAX_PROMPT + 1))
    assert "20,001 characters" in view["notice"]["text"] and not view["turns"] and not fake.asked


def test_judging_through_the_page_reaches_the_service_and_its_errors_reach_the_person(
    fake: FakeService, api_url: str
) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    key = talk.turns[0].replies[0].key
    on_chat(api_url, lambda page: page.thumb(talk, event(reply=key, good=True), request()))
    view = on_chat(api_url, lambda page: page.correct(talk, event(reply=key, text="Better."), request()))
    assert view["turns"][0]["replies"][0]["text"] == "Better." and view["turns"][0]["replies"][0]["thumb"] is True
    view = on_chat(api_url, lambda page: page.correct(talk, event(reply=key, text=fake.replies[0]), request()))
    assert view["notice"]["tone"] == "error" and "equals the reply" in view["notice"]["text"]
    view = on_chat(api_url, lambda page: page.thumb(talk, event(reply="gone", good=True), request()))
    assert "no longer on this page" in view["notice"]["text"]


def test_of_two_presses_at_once_the_second_changes_what_the_first_gave(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    turn, reply = talk.turns[0].key, talk.turns[0].replies[0].key

    async def press(page: ChatPage) -> None:
        presses = [page.thumb(talk, event(reply=reply, good=good), request()) for good in (True, False)]
        presses += [page.pick(talk, event(turn=turn, verdict=verdict), request()) for verdict in ("a", "b")]
        await asyncio.gather(*presses)

    on_chat(api_url, press)
    told = [stored["feedback"] for stored in fake.feedback.values()]
    assert [(feedback.get("good"), feedback.get("verdict")) for feedback in told] == [(False, None), (None, "b")]


@pytest.mark.parametrize("labels", [[], None, "wrong", ["made-up"], [{}]])
def test_only_labels_that_the_page_offers_are_given(fake: FakeService, api_url: str, labels: Any) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    told = event(reply=talk.turns[0].replies[0].key, labels=labels)
    on_chat(api_url, lambda page: page.mark(talk, told, request()))
    assert not fake.feedback


def test_a_new_chat_is_another_conversation_also_where_it_begins_alike(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "Hi")
    assert on_chat(api_url, lambda page: page.new_chat(talk, event()))["turns"] == []
    say(api_url, talk, "Hi")
    assert len(fake.asked[1]["messages"]) == 1
    assert len(set(conversations(fake))) == 2 and conversations(fake)[1] == talk.id


def test_a_new_chat_in_the_middle_of_a_reply_is_another_conversation(fake: FakeService, api_url: str) -> None:
    fake.pace = 0.01
    talk = Conversation()

    async def begin_anew(page: ChatPage) -> None:
        async for view in page.send(talk, event(text="Hi"), request()):
            if view["turns"] and view["turns"][0]["replies"] and view["turns"][0]["replies"][0]["text"]:
                await page.new_chat(talk, event())

    on_chat(api_url, begin_anew)
    say(api_url, talk, "Hi")
    assert len(set(conversations(fake))) == 2


def test_every_try_and_every_pair_stays_in_its_conversation(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    fake.broken = "engine"
    say(api_url, talk, "One")
    fake.broken = ""
    again(api_url, talk)
    again(api_url, talk)
    say(api_url, talk, "Two", pair=True)
    assert conversations(fake) == [talk.id] * 4


def test_stopping_when_nothing_is_drafted_changes_nothing() -> None:
    async def stop() -> dict[str, Any]:
        return await ChatPage(ServiceClient("http://127.0.0.1:9")).stop_reply(Conversation(), event())

    assert asyncio.run(stop())["busy"] is False
