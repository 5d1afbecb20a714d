"""The shelf: what a person said, where it went, and how it is taken back."""

from __future__ import annotations

import asyncio

import pytest

from service.wire import FEEDBACK_KINDS, TEACHING_KINDS
from tests.ui.fake_service import FakeService
from tests.ui.pressing import event, give, on_chat, pick, request, say
from ui.chat import ChatPage
from ui.conversation import Conversation
from ui.shelf import NEVER_LEARNED, Shelf


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
    assert set(NEVER_LEARNED) == set(FEEDBACK_KINDS) - set(TEACHING_KINDS)
    give(fake, range(1, 2), kind="label", exchange_id="chatcmpl-gone", labels=["wrong"])
    give(fake, range(2, 3), kind="thumb", exchange_id="chatcmpl-gone", good=True)
    view = on_chat(api_url, lambda page: page.open_shelf(Shelf(), request()))
    assert [item["teaches"] for item in view["items"]] == [True, False]
