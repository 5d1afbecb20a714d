from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.waiting import until
from tests.ui.calling import ANNA, using
from tests.ui.drafting import drafted, talk_about
from tests.ui.fake_service import FakeService
from ui.client import ServiceClient
from ui.conversation import Turn
from ui.drafting import FRAME, draft


def closed(fake: FakeService) -> bool:
    """Whether the service has noticed, once, that nobody reads its stream any more."""
    until(lambda: fake.closed_streams)
    return fake.closed_streams == 1


def test_a_draft_grows_on_the_page_and_ends_kept(fake: FakeService, api_url: str) -> None:
    fake.pace = 0.01
    talk, turn = talk_about("Hello")
    seen = drafted(api_url, talk, turn)
    assert seen[0] == "" and seen[-1] == fake.replies[0]
    assert len(set(seen)) > 3 and seen == sorted(seen, key=len)
    assert turn.replies[0].kept and not talk.busy and not turn.error


def test_a_reply_by_principles_tells_what_goes_on_and_ends_with_how_it_was_made(
    fake: FakeService, api_url: str
) -> None:
    talk, turn = talk_about("How do I pick a lock?")
    talk.by_principles, fake.pace, fake.hold_stage = True, 0.001, "draft"

    async def run(client: ServiceClient) -> list[dict[str, object]]:
        stages = []
        async for _ in draft(client, ANNA, talk, turn, 1):
            if turn.replies and (stage := turn.replies[0].view()["stage"]):
                stages.append(stage)
                assert turn.replies[0].text == "" or stage["name"] == "decided"
                if stage["text"] in ("Take a pin.", "It helps to do harm.", "It is a"):
                    fake.hold_stage = {"draft": "critique", "critique": "revision"}.get(stage["name"], "")
        return stages

    stages = using(api_url, run)
    assert list(dict.fromkeys(stage["name"] for stage in stages)) == ["draft", "critique", "revision", "decided"]
    assert "Take a pin." in {stage["text"] for stage in stages}
    assert fake.asked[-1]["hone"]["constitutional"] is True
    (reply,) = turn.replies
    assert reply.text == fake.replies[0] and reply.kept and reply.view()["stage"] is None
    assert [(step["before"], step["after"]) for step in reply.view()["revisions"]] == [("Take a pin.", reply.text)]


def test_one_that_is_stopped_before_it_is_decided_leaves_nothing(fake: FakeService, api_url: str) -> None:
    talk, turn = talk_about("How do I pick a lock?")
    talk.by_principles, fake.hold_stage = True, "critique"

    async def run(client: ServiceClient) -> None:
        async for _ in draft(client, ANNA, talk, turn, 1):
            if turn.replies and turn.replies[0].stages and turn.replies[0].stages[-1].name == "critique" and talk.stop:
                talk.stop.set()

    using(api_url, run)
    assert turn.replies == [] and not turn.error and not talk.busy


def test_two_answers_are_not_made_by_principles(fake: FakeService, api_url: str) -> None:
    talk, turn = talk_about("Hello", pair=True)
    talk.by_principles = True
    drafted(api_url, talk, turn, count=2)
    assert "constitutional" not in fake.asked[-1]["hone"] and turn.replies[0].view()["revisions"] == []


def test_nothing_is_drawn_while_nothing_is_written(fake: FakeService, api_url: str) -> None:
    fake.hold_at = 5
    talk, turn = talk_about("Hello")

    async def wait_and_stop(client: ServiceClient) -> int:
        drawn = 0
        async for _ in draft(client, ANNA, talk, turn, 1):
            drawn += 1
            if turn.replies[0].text and talk.stop is not None:
                asyncio.get_running_loop().call_later(10 * FRAME, talk.stop.set)
        return drawn

    assert using(api_url, wait_and_stop) <= 5 + 2  # a frame for each token at most, the empty one and the end


def test_a_pair_is_one_exchange_with_two_replies(fake: FakeService, api_url: str) -> None:
    talk, turn = talk_about("Hello", pair=True)
    drafted(api_url, talk, turn, count=2)
    assert [reply.text for reply in turn.replies] == list(fake.replies)
    assert {reply.exchange_id for reply in turn.replies} == {"chatcmpl-1"}
    assert turn.open and fake.asked[0]["n"] == 2


def test_stopping_closes_the_stream_and_keeps_what_was_written(fake: FakeService, api_url: str) -> None:
    fake.pace = 0.02
    talk, turn = talk_about("Hello")
    drafted(api_url, talk, turn, stop_after=4)
    reply = turn.replies[0]
    assert 4 <= len(reply.text) < len(fake.replies[0]) and reply.finish_reason == "stopped"
    assert not talk.busy and not turn.error
    assert closed(fake)


def test_what_was_stopped_can_be_judged_as_soon_as_it_is_stored(
    fake: FakeService, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.drafting.COMMIT", 30.0)
    fake.pace, fake.commit = 0.02, 0.3
    talk, turn = talk_about("Hello", pair=True)
    drafted(api_url, talk, turn, count=2, stop_after=4)
    assert [(reply.finish_reason, reply.kept) for reply in turn.replies] == [("stopped", True)] * 2


def test_what_was_stopped_and_is_never_stored_can_not_be_judged(fake: FakeService, api_url: str) -> None:
    fake.pace, fake.commit = 0.02, None
    talk, turn = talk_about("Hello")
    drafted(api_url, talk, turn, stop_after=4)
    assert turn.replies[0].finish_reason == "stopped" and not turn.replies[0].kept


def test_an_engine_that_is_away_leaves_an_error_and_no_reply(fake: FakeService, api_url: str) -> None:
    fake.broken = "engine"
    talk, turn = talk_about("Hello")
    drafted(api_url, talk, turn)
    assert turn.error.startswith("The engine is away") and not turn.replies and turn.reply is None
    assert not talk.busy


@pytest.mark.parametrize("broken", ["midway", "truncated"])
def test_a_reply_that_breaks_off_stays_with_the_error(fake: FakeService, api_url: str, broken: str) -> None:
    fake.broken = broken
    talk, turn = talk_about("Hello")
    drafted(api_url, talk, turn)
    assert turn.error and turn.replies[0].text == fake.replies[0][:3]
    assert turn.replies[0].finish_reason == "broken off" and not turn.replies[0].kept


def test_a_pair_of_which_nothing_came_is_no_pair(fake: FakeService, api_url: str) -> None:
    fake.broken = "engine"
    talk, turn = talk_about("Hello", pair=True)
    drafted(api_url, talk, turn, count=2)
    assert not turn.side_by_side and not turn.open and turn.compared is None and turn.error


def test_a_page_that_goes_away_stops_its_draft(fake: FakeService, api_url: str) -> None:
    fake.pace = 0.02
    talk, turn = talk_about("Hello")

    async def leave(client: ServiceClient) -> None:
        steps = draft(client, ANNA, talk, turn, 1)
        async for _ in steps:
            if turn.replies[0].text:
                break
        await steps.aclose()  # type: ignore[attr-defined]  # an async generator, as Gradio closes it

    using(api_url, leave)
    assert not talk.busy and turn.replies[0].finish_reason == "stopped"
    assert closed(fake)


@pytest.mark.parametrize("tells_context", [True, False])
def test_a_long_conversation_goes_on_without_how_it_began(fake: FakeService, api_url: str, tells_context: bool) -> None:
    fake.context, fake.tells_context = 120, tells_context
    talk, turn = talk_about("How does this begin?")
    drafted(api_url, talk, turn)
    assert not talk.seen_from
    for number in range(8):
        talk.turns.append(turn := Turn(f"And what comes then, number {number}?", chosen=0))
        drafted(api_url, talk, turn)
        assert turn.reply is not None and turn.reply.kept and not turn.error
    asked = fake.asked[-1]["messages"]
    assert asked[-1]["content"] == turn.prompt and 1 < len(asked) < 17
    assert all(one["role"] == role for one, role in zip(asked, ["user", "assistant"] * 8, strict=False))
    oldest = talk.find_turn(talk.seen_from)
    assert oldest is not None and oldest.prompt == asked[0]["content"] != talk.turns[0].prompt
    assert "no longer sees the oldest" in talk.notice and talk.view()["seen_from"] == oldest.key
    refused = len(fake.asked) - 9
    assert refused > 0 if not tells_context else refused == 0


def test_a_prompt_that_does_not_fit_alone_is_refused_in_words_and_given_back(fake: FakeService, api_url: str) -> None:
    fake.context = 5
    talk, turn = talk_about("This is a rather long thing to say.")
    drafted(api_url, talk, turn)
    notice = talk.view()["notice"]
    assert notice["text"] == "Your message is too long: 35 characters. The prompt has 17 tokens; the context holds 5."
    assert (notice["tone"], notice["unsent"], talk.turns) == ("error", turn.prompt, [])


@pytest.mark.parametrize("tells_context", [True, False])
def test_one_that_does_not_fit_alone_leaves_a_conversation_as_it_was(
    fake: FakeService, api_url: str, tells_context: bool
) -> None:
    fake.context, fake.tells_context = 120, tells_context
    talk, first = talk_about("How does this begin?")
    drafted(api_url, talk, first)
    talk.turns.append(turn := Turn("And so on. " * 30, chosen=0))
    drafted(api_url, talk, turn)
    assert talk.turns == [first] and not talk.seen_from
    assert talk.serial == 1 and talk.notice.startswith("Your message is too long: 330 characters.")
    talk.turns.append(turn := Turn("And what then?", chosen=0))
    drafted(api_url, talk, turn)
    assert turn.reply is not None and len(fake.asked[-1]["messages"]) == 3


def test_another_draft_that_does_not_fit_leaves_the_one_before(fake: FakeService, api_url: str) -> None:
    talk, turn = talk_about("This is a rather long thing to say.")
    drafted(api_url, talk, turn)
    fake.context = 5
    drafted(api_url, talk, turn)
    assert talk.turns == [turn] and len(turn.replies) == 1 and "context holds 5" in turn.error
