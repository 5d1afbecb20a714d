"""Two answers beside each other, and another try: which are compared, which goes on, and what a person said of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.ui.fake_service import FakeService
from tests.ui.pressing import again, correct, event, on_chat, pick, request, restored, say
from ui.chat import ChatPage
from ui.conversation import Conversation


def test_going_on_without_a_pick_says_nothing_about_the_pair(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    assert talk.turns[0].open
    say(api_url, talk, "Two")
    assert [message["content"] for message in fake.asked[1]["messages"]] == ["One", fake.replies[0], "Two"]
    assert not fake.feedback


def test_the_picked_answer_goes_on(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    assert pick(api_url, talk, "b")["turns"][0]["verdict"] == "b"
    say(api_url, talk, "Two")
    assert fake.asked[1]["messages"][1]["content"] == fake.replies[1]
    assert fake.feedback["fb-1"]["feedback"]["verdict"] == "b"


def test_a_pick_can_be_skipped_or_undone(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    assert pick(api_url, talk, "skip")["turns"][0]["chosen"] == 0 and not fake.feedback
    pick(api_url, talk, "b")
    assert pick(api_url, talk, "undo")["turns"][0]["chosen"] is None
    assert fake.feedback["fb-1"]["withdrawn"]


def test_trying_again_keeps_both_replies_and_lets_them_be_compared(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    turn = again(api_url, talk)["turns"][0]
    assert [reply["text"] for reply in turn["replies"]] == list(fake.replies)
    assert turn["chosen"] == 1 and turn["compared"] == (1, 0)
    assert fake.asked[0]["messages"] == fake.asked[1]["messages"]
    assert pick(api_url, talk, "b")["turns"][0]["chosen"] == 0  # the one before was better: it is back
    told = fake.feedback["fb-1"]["feedback"]
    assert (told["a"]["exchange_id"], told["b"]["exchange_id"]) == ("chatcmpl-2", "chatcmpl-1")


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_third_try_is_compared_with_the_one_that_was_on_the_page(
    fake: FakeService, api_url: str, reloaded: bool
) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    again(api_url, talk)
    pick(api_url, talk, "b")  # the first is back
    assert again(api_url, talk)["turns"][0]["compared"] == (2, 0)
    assert pick(api_url, talk, "b")["turns"][0]["chosen"] == 0
    if reloaded:
        assert restored(api_url, talk.trail()).view()["turns"][0]["compared"] == (2, 0)


def test_what_a_third_try_replaced_is_not_guessed_after_a_reload(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    again(api_url, talk)
    again(api_url, talk)
    turn = restored(api_url, talk.trail()).view()["turns"][0]
    assert (turn["chosen"], turn["compared"], turn["verdict"]) == (2, None, None)


@pytest.mark.parametrize("reloaded", [False, True])
def test_another_try_can_be_compared_whatever_was_corrected_meanwhile(
    fake: FakeService, api_url: str, reloaded: bool
) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    say(api_url, talk, "Two")
    correct(api_url, talk, 0, "Better.")
    if reloaded:
        talk = restored(api_url, talk.trail())
    again(api_url, talk)
    assert fake.asked[2]["messages"] == fake.asked[1]["messages"]
    assert pick(api_url, talk, "a")["turns"][1]["verdict"] == "a"
    say(api_url, talk, "Three")
    assert fake.asked[3]["messages"][1]["content"] == "Better."


def test_after_an_error_the_model_is_told_what_was_corrected_meanwhile(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    fake.broken = "engine"
    say(api_url, talk, "Two")
    fake.broken = ""
    correct(api_url, talk, 0, "Better.")
    again(api_url, talk)
    assert fake.asked[2]["messages"][1]["content"] == "Better."


@pytest.mark.parametrize("stop", [False, True])
def test_another_try_of_which_nothing_came_leaves_all_as_it_was(fake: FakeService, api_url: str, stop: bool) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    again(api_url, talk)
    before = pick(api_url, talk, "b")["turns"][0]
    fake.broken = "" if stop else "engine"
    after = again(api_url, talk, stop)["turns"][0]
    assert bool(after["error"]) is not stop
    assert (after["chosen"], after["verdict"]) == (0, "b") and {**after, "error": ""} == before
    pick(api_url, talk, "tie")
    assert [stored["feedback"]["verdict"] for stored in fake.feedback.values()] == ["tie"]


def test_two_answers_of_which_nothing_came_are_not_compared(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    fake.broken = "engine"
    assert say(api_url, talk, "One", pair=True)["turns"][0]["compared"] is None
    assert say(api_url, talk, "Two", session=None, pair=True)["turns"][1]["compared"] is None
    assert "no two answers" in pick(api_url, talk, "a")["notice"]["text"]


def test_trying_again_after_an_error_makes_a_reply(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    fake.broken = "engine"
    assert "away" in say(api_url, talk, "One")["turns"][0]["error"]
    fake.broken = ""
    turn = again(api_url, talk)["turns"][0]
    assert turn["error"] == "" and turn["chosen"] == 0 and turn["compared"] is None


def test_the_next_message_waits_for_the_verdict_on_two_answers(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    told = event(turn=talk.turns[0].key, verdict="b")

    async def press(page: ChatPage) -> None:
        verdict = asyncio.create_task(page.pick(talk, told, request()))
        await asyncio.sleep(0)
        async for _ in page.send(talk, event(text="Two"), request()):
            assert verdict.done()

    on_chat(api_url, press)
    assert talk.turns[0].chosen == 1
    assert fake.asked[1]["messages"][1]["content"] == fake.replies[1]


def test_another_try_waits_for_the_verdict_on_the_ones_before(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    again(api_url, talk)
    told = event(turn=talk.turns[0].key, verdict="b")

    async def press(page: ChatPage) -> None:
        verdict = asyncio.create_task(page.pick(talk, told, request()))
        await asyncio.sleep(0)
        async for _ in page.retry(talk, event(), request()):
            assert verdict.done()

    on_chat(api_url, press)
    assert len(talk.turns[0].replies) == 3 and talk.turns[0].comparison is None
