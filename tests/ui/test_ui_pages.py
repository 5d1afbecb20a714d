"""The pages' handlers, called as Gradio calls them: state, event, request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import gradio as gr
import pytest
from starlette.requests import Request

from service.adapters.manifest import Probe
from service.adapters.proof import judge
from service.wire import FEEDBACK_KINDS, TEACHING_KINDS
from tests.ui.fake_service import OPERATOR, FakeService, fake_adapter, fake_run
from tests.ui.test_ui_client import using
from ui.board import Board, _since_when
from ui.chat import MAX_PROMPT, ChatPage
from ui.client import ServiceClient
from ui.conversation import Conversation
from ui.operator import OperatorPage
from ui.restoring import FEEDBACK_PAGE
from ui.shelf import NOT_LEARNED_YET, Shelf

T = TypeVar("T")


def request(session: str | None = "anna") -> gr.Request:
    headers = [(b"cookie", f"hone_session={session}".encode())] if session else []
    return gr.Request(Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}))


def event(**data: Any) -> gr.EventData:
    return gr.EventData(None, data)


def on_chat(api_url: str, act: Callable[[ChatPage], Awaitable[T]]) -> T:
    return using(api_url, lambda client: act(ChatPage(client)))


def say(api_url: str, talk: Conversation, text: str, session: str | None = "anna", **data: Any) -> dict[str, Any]:
    async def act(page: ChatPage) -> dict[str, Any]:
        views = [view async for view in page.send(talk, event(text=text, **data), request(session))]
        return views[-1]

    return on_chat(api_url, act)


def again(api_url: str, talk: Conversation, stop: bool = False) -> dict[str, Any]:
    """Another try; with `stop`, one that is stopped before anything came of it."""

    async def act(page: ChatPage) -> dict[str, Any]:
        views = []
        async for view in page.retry(talk, event(), request()):
            views.append(view)
            if stop and talk.stop is not None:
                talk.stop.set()
        return views[-1]

    return on_chat(api_url, act)


def correct(api_url: str, talk: Conversation, turn: int, text: str) -> dict[str, Any]:
    told = event(reply=talk.turns[turn].replies[0].key, text=text)
    return on_chat(api_url, lambda page: page.correct(talk, told, request()))


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


def test_going_on_without_a_pick_says_nothing_about_the_pair(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One", pair=True)
    assert talk.turns[0].open
    say(api_url, talk, "Two")
    assert [message["content"] for message in fake.asked[1]["messages"]] == ["One", fake.replies[0], "Two"]
    assert not fake.feedback


def pick(api_url: str, talk: Conversation, verdict: str) -> dict[str, Any]:
    told = event(turn=talk.turns[-1].key, verdict=verdict)
    return on_chat(api_url, lambda page: page.pick(talk, told, request()))


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


@pytest.mark.parametrize("labels", [[], None, "wrong", ["made-up"], [{}]])
def test_only_labels_that_the_page_offers_are_given(fake: FakeService, api_url: str, labels: Any) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    told = event(reply=talk.turns[0].replies[0].key, labels=labels)
    on_chat(api_url, lambda page: page.mark(talk, told, request()))
    assert not fake.feedback


def conversations(fake: FakeService) -> list[str]:
    """The conversation of each chat that was asked, in order."""
    return [asked["hone"]["conversation_id"] for asked in fake.asked]


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


def restored(api_url: str, trail: Any, session: str = "anna") -> Conversation:
    talk = Conversation()
    on_chat(api_url, lambda page: page.restore(talk, event(trail=trail), request(session)))
    return talk


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


def give(fake: FakeService, numbers: range, **feedback: Any) -> None:
    """As if anna had said that so many times, elsewhere."""
    for number in numbers:
        fake.feedback[f"fb-{number}"] = {
            "id": f"fb-{number}",
            "created_at": "2026-11-01T00:00:00Z",
            "withdrawn": False,
            "learned_in": [],
            "feedback": {"index": 0, **feedback},
        }
        fake.owners[f"fb-{number}"] = "anna"


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


def test_somebody_elses_trail_shows_nothing(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    assert restored(api_url, talk.trail(), session="bert").turns == []


# ---- the shelf ----------------------------------------------------------------------------------------------------


def test_the_shelf_shows_what_was_said_about_what_and_where_it_shipped(fake: FakeService, api_url: str) -> None:
    talk, shelf = Conversation(), Shelf()
    say(api_url, talk, "One", pair=True)
    pick(api_url, talk, "a")
    fake.feedback["fb-1"]["learned_in"] = ["v3"]
    view = on_chat(api_url, lambda page: page.open_shelf(shelf, request()))
    (item,) = view["items"]
    assert view["shown"] and not view["more"] and item["learned_in"] == ["v3"] and not item["considered"]
    assert item["prompt"] == "One" and item["replies"] == list(fake.replies) and item["adapter"] == "base"
    others = on_chat(api_url, lambda page: page.open_shelf(Shelf(), request("bert")))
    assert others["items"] == []


def test_what_is_withdrawn_on_the_shelf_is_gone_from_the_chat(fake: FakeService, api_url: str) -> None:
    talk, shelf = Conversation(), Shelf()
    say(api_url, talk, "One")
    told = event(reply=talk.turns[0].replies[0].key, good=True)
    on_chat(api_url, lambda page: page.thumb(talk, told, request()))
    on_chat(api_url, lambda page: page.open_shelf(shelf, request()))
    shelf_view, chat_view = on_chat(api_url, lambda page: page.withdraw(shelf, talk, event(id="fb-1"), request()))
    assert shelf_view["items"][0]["withdrawn"] and fake.feedback["fb-1"]["withdrawn"]
    assert chat_view["turns"][0]["replies"][0]["thumb"] is None


def test_a_server_that_does_not_know_the_page_withdraws_nothing(fake: FakeService, api_url: str) -> None:
    talk = Conversation()
    say(api_url, talk, "One")
    told = event(reply=talk.turns[0].replies[0].key, good=True)
    seen = on_chat(api_url, lambda page: page.thumb(talk, told, request()))["version"]
    gone = event(id="fb-1", seen=seen)
    _, view = on_chat(api_url, lambda page: page.withdraw(Shelf(), Conversation(), gone, request()))
    assert view["lost"] and not fake.feedback["fb-1"]["withdrawn"]


def test_nobody_withdraws_what_somebody_else_said(fake: FakeService, api_url: str) -> None:
    talk, shelf = Conversation(), Shelf()
    say(api_url, talk, "One")
    told = event(reply=talk.turns[0].replies[0].key, good=True)
    on_chat(api_url, lambda page: page.thumb(talk, told, request()))
    view, _ = on_chat(api_url, lambda page: page.withdraw(shelf, talk, event(id="fb-1"), request("bert")))
    assert "There is no" in view["error"] and not fake.feedback["fb-1"]["withdrawn"]


def test_a_long_shelf_comes_page_by_page(fake: FakeService, api_url: str) -> None:
    give(fake, range(1, 26), kind="label", exchange_id="chatcmpl-gone", labels=["wrong"])
    shelf = Shelf()
    assert on_chat(api_url, lambda page: page.open_shelf(shelf, request()))["more"]
    view = on_chat(api_url, lambda page: page.more(shelf, request()))
    assert [item["id"] for item in view["items"]] == [f"fb-{number}" for number in range(25, 0, -1)]
    assert not view["more"] and view["items"][0]["replies"] == []


@pytest.mark.parametrize("count", [3, 25])
def test_a_press_on_the_shelf_that_comes_twice_counts_once(fake: FakeService, api_url: str, count: int) -> None:
    give(fake, range(1, count + 1), kind="label", exchange_id="chatcmpl-gone", labels=["wrong"])
    shelf = Shelf()

    async def press(page: ChatPage) -> None:
        await asyncio.gather(page.open_shelf(shelf, request()), page.open_shelf(shelf, request()))
        if shelf.next:
            await asyncio.gather(page.more(shelf, request()), page.more(shelf, request()))

    on_chat(api_url, press)
    assert [item["id"] for item in shelf.items] == [f"fb-{number}" for number in range(count, 0, -1)]


def test_the_shelf_promises_no_learning_from_what_nothing_learns_from(fake: FakeService, api_url: str) -> None:
    assert set(NOT_LEARNED_YET) == set(FEEDBACK_KINDS) - set(TEACHING_KINDS)
    give(fake, range(1, 2), kind="label", exchange_id="chatcmpl-gone", labels=["wrong"])
    give(fake, range(2, 3), kind="thumb", exchange_id="chatcmpl-gone", good=True)
    view = on_chat(api_url, lambda page: page.open_shelf(Shelf(), request()))
    assert [item["teaches"] for item in view["items"]] == [True, False]


# ---- operators ----------------------------------------------------------------------------------------------------


def on_board(api_url: str, act: Callable[[OperatorPage], Awaitable[T]]) -> T:
    return using(api_url, lambda client: act(OperatorPage(client)))


def look(api_url: str, board: Board, session: str | None = OPERATOR) -> tuple[Any, ...]:
    return on_board(api_url, lambda page: page.look(board, request(session)))


@pytest.fixture
def adapters(fake: FakeService) -> FakeService:
    fake.adapters["v1"] = fake_adapter("v1", "live", created_at="2026-11-01T00:00:00Z")
    report = {"share_won": {"value": 0.7, "low": 0.6, "high": 0.8}, "gates": [{"name": "fluent", "passed": True}]}
    fake.adapters["v2"] = fake_adapter("v2", "candidate", report=report, created_at="2026-11-02T00:00:00Z")
    fake.serving.update(live="v1", previous="base")
    return fake


def test_the_proof_that_an_adapter_is_served_is_told_in_plain_words(adapters: FakeService, api_url: str) -> None:
    probe = Probe(prompt_token_ids=(1,), token_ids=(2,), logprobs=(-1.0,), base_logprobs=(-3.0,))
    proof = judge((probe,), [[-1.0]], [[-3.0]], {}, tolerance=0.05).words
    adapters.adapters["v1"]["reason"] = f"It passed every gate. {proof} On all 3 engines."
    top, _, _, shown = look(api_url, Board())
    said = "It passed every gate. The engine serves it as it was trained. On all 3 engines."
    assert "KL" in proof and (top["why"], shown["adapters"][1]["reason"]) == (said, said)


def test_an_operator_sees_what_is_live_and_why(adapters: FakeService, api_url: str) -> None:
    top, runs, _, shown = look(api_url, Board())
    assert top["serving"]["live"] == "v1" and top["why"] == "Is live now." and top["since"]
    assert runs["runs"] == () and not runs["hidden"]
    assert [adapter["name"] for adapter in shown["adapters"]] == ["v2", "v1"]
    assert shown["adapters"][0]["figures"][0]["value"] == "70.0 %"
    _, _, _, shown = look(api_url, Board(opened={"v2"}))  # the list has no gates: they are shown with the whole report
    assert shown["adapters"][0]["figures"][0]["value"] == "70.0 %" and shown["adapters"][0]["gates"][0]["passed"]


@pytest.mark.parametrize("session", ["anna", None])
def test_a_user_sees_the_refusal_and_nothing_else(adapters: FakeService, api_url: str, session: str | None) -> None:
    top, runs, charts, shown = look(api_url, Board(), session)
    assert "Operators only" in top["refused"] and not top["serving"] and not top["stats"]
    assert runs["hidden"] and not runs["runs"] and shown["hidden"] and not shown["adapters"]
    assert charts["hidden"] and not charts["charts"]


@pytest.mark.parametrize(
    ("lever", "data"),
    [
        ("learn", {"method": "auto"}),
        ("cancel_run", {"run": "run-1"}),
        ("promote", {"adapter": "v2"}),
        ("canary", {"adapter": "v2", "share": 0.5}),
        ("end_canary", None),
        ("rollback", {"to": "base"}),
        ("reject", {"adapter": "v2"}),
    ],
)
def test_no_lever_moves_for_a_user(
    adapters: FakeService, api_url: str, lever: str, data: dict[str, Any] | None
) -> None:
    board = Board()
    arguments = [board, request("anna")] if data is None else [board, event(**data), request("anna")]
    on_board(api_url, lambda page: getattr(page, lever)(*arguments))
    assert not adapters.acted and board.tone == "error" and "Operators only" in board.notice


def test_levers_carry_what_was_filled_in(adapters: FakeService, api_url: str) -> None:
    board = Board()

    async def pull(page: OperatorPage) -> None:
        await page.canary(board, event(adapter="v2", share=0.25, reason=" A quarter. "), request(OPERATOR))
        await page.end_canary(board, request(OPERATOR))
        await page.promote(board, event(adapter="v2", reason="Good."), request(OPERATOR))
        await page.rollback(board, event(to="", reason="Worse."), request(OPERATOR))
        await page.reject(board, event(adapter="v2", reason="Bad."), request(OPERATOR))
        await page.learn(board, event(method="dpo", promote=False), request(OPERATOR))
        await page.learn(board, event(method="auto", promote=None), request(OPERATOR))
        await page.cancel_run(board, event(run="run-1"), request(OPERATOR))

    on_board(api_url, pull)
    assert adapters.acted == [
        ("canary", {"name": "v2", "share": 0.25, "reason": "A quarter."}),
        ("end_canary", {}),
        ("promote", {"name": "v2", "reason": "Good."}),
        ("rollback", {"to": None, "reason": "Worse."}),
        ("reject", {"name": "v2", "reason": "Bad."}),
        ("learn", {"method": "dpo", "promote": False}),
        ("learn", {"method": "auto"}),
        ("cancel", {"name": "run-1"}),
    ]


@pytest.mark.parametrize("name", ["../runs", "v2/canary", "", None, 3, "v2?x"])
def test_a_name_that_is_none_goes_nowhere(adapters: FakeService, api_url: str, name: Any) -> None:
    board = Board()
    on_board(api_url, lambda page: page.promote(board, event(adapter=name), request(OPERATOR)))
    assert board.tone == "error" and "no adapter unknown" in board.notice
    assert adapters.serving["live"] == "v1"


def test_only_what_changed_is_drawn_again(adapters: FakeService, api_url: str) -> None:
    board = Board()
    skipped = gr.skip()
    look(api_url, board)
    assert all(part == skipped for part in look(api_url, board))
    adapters.adapters["v2"]["state"] = "rejected"
    top, runs, curves, shown = look(api_url, board)
    assert top == runs == curves == skipped and shown["adapters"][0]["state"] == "rejected"


def test_a_look_that_was_overtaken_by_a_later_one_is_not_drawn() -> None:
    board = Board()
    assert not board.overtaken(2) and board.overtaken(1) and not board.overtaken(3)


def test_the_board_of_a_restarted_server_is_drawn_over_the_one_before(adapters: FakeService, api_url: str) -> None:
    before = Board()

    def reject(board: Board, name: str) -> Any:
        return on_board(api_url, lambda page: page.reject(board, event(adapter=name), request(OPERATOR)))[0]

    for name in ("v2", "v1", "v2"):
        view = reject(before, name)
    again = reject(Board(), "v2")
    assert again["version"] > view["version"] and again["notice"]["serial"] > view["notice"]["serial"]


def test_the_run_under_way_is_shown_until_another_is_chosen(fake: FakeService, api_url: str) -> None:
    fake.runs = {"run-1": fake_run("run-1", "succeeded"), "run-2": fake_run("run-2", "running")}
    fake.metrics = {"run-1": [{"step": 1, "phase": "sft", "loss": 2.0}], "run-2": []}
    board = Board()
    _, runs, curves, _ = look(api_url, board)
    assert runs["run"] == "run-2" and curves["charts"] == []
    _, runs, curves, _ = on_board(api_url, lambda page: page.choose_run(board, event(run="run-1"), request(OPERATOR)))
    assert runs["run"] == "run-1" and [chart["name"] for chart in curves["charts"]] == ["loss"]


def test_an_opened_adapter_shows_its_history(adapters: FakeService, api_url: str) -> None:
    board = Board()
    assert look(api_url, board)[3]["adapters"][0]["history"] == []
    *_, shown = on_board(api_url, lambda page: page.open_adapter(board, event(adapter="v2"), request(OPERATOR)))
    assert shown["adapters"][0]["open"] and shown["adapters"][0]["history"]
    *_, shown = on_board(api_url, lambda page: page.open_adapter(board, event(adapter="v2"), request(OPERATOR)))
    assert not shown["adapters"][0]["open"]


def test_a_service_that_is_away_is_said_and_looked_for_again() -> None:
    board = Board()
    top, runs, _, _ = look("http://127.0.0.1:9", board)
    assert "can't be reached" in top["away"] and runs["hidden"]


def test_stopping_when_nothing_is_drafted_changes_nothing() -> None:
    async def stop() -> dict[str, Any]:
        return await ChatPage(ServiceClient("http://127.0.0.1:9")).stop_reply(Conversation(), event())

    assert asyncio.run(stop())["busy"] is False


def test_what_went_live_again_is_live_since_the_last_time() -> None:
    times = ["2026-01-01T10:00:00Z", "2026-01-03T10:00:00Z", "2026-01-02T10:00:00Z"]
    history = [{"action": "live", "at": at} for at in times] + [{"action": "requested", "at": "2026-01-09T10:00:00Z"}]
    assert _since_when({"history": history}) == times[1]
    assert _since_when({"history": []}) is None and _since_when(None) is None
