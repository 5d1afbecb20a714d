from __future__ import annotations

import copy
from typing import Any

from ui.client import Delta
from ui.conversation import Conversation, Reply, Turn, messages


def answered(prompt: str, *texts: str, chosen: int | None = 0, pair: bool = False) -> Turn:
    replies = [
        Reply(index, exchange_id=f"ex-{prompt}", text=text, finish_reason="stop", kept=True)
        for index, text in enumerate(texts)
    ]
    return Turn(prompt, replies=replies, chosen=chosen, compared=(0, 1) if pair else None, side_by_side=pair)


def stored(name: str, **feedback: Any) -> dict[str, Any]:
    return {"id": name, "feedback": feedback}


def test_the_model_is_told_every_answered_turn_and_the_new_prompt() -> None:
    new = Turn("three")
    talk = Conversation(turns=[answered("one", "1"), answered("two", "a", "b", chosen=1), new])
    told = messages(talk.turns_before(new), new.prompt)
    assert [message["content"] for message in told] == ["one", "1", "two", "b", "three"]
    assert [message["role"] for message in told] == ["user", "assistant"] * 2 + ["user"]


def test_of_what_is_too_long_the_oldest_turns_are_left_out() -> None:
    new = Turn("12345")
    talk = Conversation(turns=[answered("a", "1"), answered("bb", "22"), answered("ccc", "333"), new])
    for room, seen in ((100, ["a", "bb", "ccc"]), (16, ["bb", "ccc"]), (15, ["bb", "ccc"]), (14, ["ccc"]), (4, [])):
        assert [turn.prompt for turn in talk.turns_before(new, room)] == seen


def test_the_conversation_goes_on_as_the_person_corrected_it() -> None:
    turn, new = answered("capital?", "Paris"), Turn("sure?")
    turn.replies[0].given["correction"] = stored("fb-1", text="Lisbon")
    assert messages(Conversation(turns=[turn, new]).turns_before(new), "sure?")[1]["content"] == "Lisbon"
    assert turn.replies[0].text == "Paris"


def test_a_turn_that_failed_is_not_told() -> None:
    failed, new = Turn("one", error="away"), Turn("two")
    assert Conversation(turns=[failed, new]).turns_before(new) == []


def test_trying_again_does_not_tell_the_model_its_first_try() -> None:
    turn = answered("one", "first")
    assert Conversation(turns=[turn]).turns_before(turn) == []
    assert messages([], "one") == [{"role": "user", "content": "one"}]


def test_a_pair_stays_open_until_it_is_settled() -> None:
    turn = answered("one", "a", "b", chosen=None, pair=True)
    assert turn.open and turn.reply is None
    turn.settle("b")
    assert not turn.open and turn.reply is turn.replies[1]
    for verdict in ("a", "tie", "both_bad"):
        turn.settle(verdict)
        assert turn.reply is turn.replies[0]


def test_the_trail_names_the_drafts_of_each_turn_and_which_of_them_goes_on() -> None:
    tried_again = answered("again", "x", chosen=1)
    tried_again.replies.append(Reply(0, exchange_id="ex-2", text="y", finish_reason="stop", kept=True))
    unfinished = answered("stopped", "z")
    unfinished.replies[0].kept = False
    turns = [
        answered("one", "1"),
        answered("pair", "a", "b", chosen=1, pair=True),
        tried_again,
        unfinished,
        Turn("failed", error="away"),
        answered("open", "a", "b", chosen=None, pair=True),
    ]
    assert Conversation(turns=turns).trail() == "ex-one.0/ex-pair.1/ex-again~ex-2.1/ex-open"


def test_a_try_that_is_not_stored_leaves_the_trail_to_the_one_before() -> None:
    turn = answered("one", "good", chosen=1)
    turn.replies.append(Reply(0, exchange_id="ex-2", text="hal", finish_reason="stopped"))
    assert turn.trail() == "ex-one.0"


def test_a_reply_grows_and_keeps_its_key() -> None:
    reply = Reply()
    key = reply.key
    for text, finish in (("Hel", None), ("lo", None), ("", "stop")):
        reply.take(Delta("ex-1", "v3", 0, text, finish))
    assert (reply.key, reply.text, reply.exchange_id, reply.adapter) == (key, "Hello", "ex-1", "v3")
    assert reply.finish_reason == "stop"


def test_feedback_that_was_withdrawn_elsewhere_is_forgotten() -> None:
    turn = answered("one", "a", "b", pair=True)
    turn.comparison = stored("fb-1", verdict="a")
    turn.replies[1].given = {"thumb": stored("fb-2", good=True), "score": stored("fb-3", score=7)}
    talk = Conversation(turns=[turn])
    talk.forget("fb-2")
    assert list(turn.replies[1].given) == ["score"] and turn.comparison is not None
    talk.forget("fb-1")
    assert turn.comparison is None


def test_the_same_notice_shows_again() -> None:
    talk = Conversation()
    talk.say("Away.", "error")
    first = talk.view()["notice"]
    talk.say("Away.", "error")
    assert talk.view()["notice"] != first


def test_the_view_says_what_was_said_about_a_reply() -> None:
    reply = answered("one", "a").replies[0]
    assert reply.view()["thumb"] is None and not reply.view()["corrected"]
    reply.given = {"thumb": stored("1", good=False), "score": stored("2", score=3), "critique": stored("3", text="No.")}
    view = reply.view()
    assert (view["thumb"], view["score"], view["critique"]) == (False, 3, "No.")


def test_a_conversation_has_one_random_id_also_where_its_state_was_copied() -> None:
    start = Conversation()
    one, other = copy.deepcopy(start), copy.deepcopy(start)  # as Gradio does for every browser
    assert one.identify() == one.identify() == one.id
    assert one.id != other.identify()


def test_a_later_view_can_be_told_from_an_earlier_one() -> None:
    talk = Conversation()
    assert talk.view()["version"] < talk.view()["version"]
