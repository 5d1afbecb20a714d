"""The pages when their server is restarted: they come back by themselves, and no press is lost unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.talking import answered, say
from tests.fixtures.serving import serve
from tests.ui.fake_api_objects import fake_run
from tests.ui.fake_app import fake_app
from tests.ui.fake_service import FakeService
from ui.app import create_app

pytestmark = pytest.mark.browser


class Server:
    """The pages over one fake service; `restart` serves them anew at the same address, with none of their state."""

    def __init__(self) -> None:
        self.fake = FakeService(pace=0.005)
        self._stack, self._pages = ExitStack(), ExitStack()
        self._api_url = self._stack.enter_context(serve(fake_app(self.fake)))
        self.url = self._pages.enter_context(serve(create_app(self._api_url)))

    def restart(self) -> None:
        fresh = create_app(self._api_url)
        self.stop()
        self._pages.enter_context(serve(fresh, port=urlsplit(self.url).port or 0))

    def stop(self) -> None:
        self._pages.close()

    def close(self) -> None:
        self.stop()
        self._stack.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def chat_of_two_turns(server: Server, open_page: OpenPage) -> Page:
    page = open_page(server.url, goes_away=True)
    for turn, text in enumerate(("One", "Two"), start=1):
        say(page, text)
        answered(page, turn)
    return page


def test_the_page_comes_back_by_itself_with_all_that_was_said_and_typed(server: Server, open_page: OpenPage) -> None:
    chat = chat_of_two_turns(server, open_page)
    chat.locator(".hone-turn").last.get_by_role("button", name="How it should have been").click()
    chat.get_by_role("textbox", name="How it should have been").fill("Half a correction")
    chat.get_by_label("Your message").fill("Half a thou")
    server.restart()
    expect(chat.locator(".hone-toast")).to_contain_text("Your conversation is still here.")
    answered(chat, turns=2)
    expect(chat.get_by_label("Your message")).to_have_value("Half a thou")
    expect(chat.get_by_role("textbox", name="How it should have been")).to_have_value("Half a correction")
    say(chat, "Three")
    answered(chat, turns=3)
    assert len(server.fake.asked[2]["messages"]) == 5


def test_the_page_says_that_the_server_is_away(server: Server, open_page: OpenPage) -> None:
    chat = open_page(server.url, goes_away=True)
    expect(chat.locator(".hone-hint")).to_have_text("Enter to send")
    server.stop()
    expect(chat.locator(".hone-hint")).to_have_text("Hone is away. This page goes on by itself.")


def test_what_was_asked_while_the_server_went_away_is_typed_again(server: Server, open_page: OpenPage) -> None:
    chat = chat_of_two_turns(server, open_page)
    server.fake.hold_at = 5
    say(chat, "Three")
    expect(chat.locator(".hone-text.streaming")).to_contain_text("It")
    server.restart()
    server.fake.hold_at = None
    answered(chat, turns=2)
    expect(chat.get_by_label("Your message")).to_have_value("Three")


@pytest.mark.parametrize("press", ["send", "thumb"])
def test_a_press_before_the_page_has_noticed_is_not_lost_unsaid(
    server: Server, open_page: OpenPage, press: str
) -> None:
    chat = chat_of_two_turns(server, open_page)
    chat.route("**/app_id", lambda route: None)  # it never hears that the server is another
    server.restart()
    if press == "send":
        say(chat, "Three")
    else:
        chat.get_by_role("button", name="Good reply").last.click()
    expect(chat.locator(".hone-toast")).to_contain_text("Please do it once more.")
    answered(chat, turns=2)
    assert len(server.fake.asked) == 2 and not server.fake.feedback  # nothing was done without the conversation
    if press == "send":
        expect(chat.get_by_label("Your message")).to_have_value("Three")
        chat.get_by_role("button", name="Send").click()
        answered(chat, turns=3)
        assert len(server.fake.asked[2]["messages"]) == 5
    else:
        chat.get_by_role("button", name="Good reply").last.click()
        expect(chat.get_by_role("button", name="Good reply").last).to_have_attribute("aria-pressed", "true")


def test_what_was_saved_before_the_page_has_noticed_is_still_in_its_editor(server: Server, open_page: OpenPage) -> None:
    chat = chat_of_two_turns(server, open_page)
    chat.route("**/app_id", lambda route: None)
    chat.locator(".hone-turn").last.get_by_role("button", name="How it should have been").click()
    editor = chat.get_by_role("textbox", name="How it should have been")
    editor.fill("Lisbon, of course.")
    server.restart()
    chat.get_by_role("button", name="Save correction").click()
    expect(chat.locator(".hone-toast")).to_contain_text("Please do it once more.")
    answered(chat, turns=2)
    expect(editor).to_have_value("Lisbon, of course.")
    assert not server.fake.feedback
    chat.get_by_role("button", name="Save correction").click()
    expect(chat.locator(".hone-tag")).to_have_text("your version")
    expect(chat.locator(".hone-panel")).to_have_count(0)


def test_what_was_withdrawn_before_the_page_has_noticed_leaves_the_conversation(
    server: Server, open_page: OpenPage
) -> None:
    chat = chat_of_two_turns(server, open_page)
    good = chat.get_by_role("button", name="Good reply").last
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    chat.route("**/app_id", lambda route: None)
    server.restart()
    chat.get_by_role("button", name="Your feedback").click()
    chat.get_by_role("button", name="Withdraw").click()
    expect(chat.locator(".hone-toast")).to_contain_text("Please do it once more.")
    answered(chat, turns=2)
    expect(good).to_have_attribute("aria-pressed", "true")


def test_the_operators_page_goes_on(server: Server, open_page: OpenPage) -> None:
    server.fake.runs["run-1"] = fake_run("run-1", "running", step=5)
    board = open_page(f"{server.url}/operator?key=right", goes_away=True)
    steps, toast = board.locator("[data-run=run-1] .hone-steps"), board.locator(".hone-toast")
    expect(steps).to_have_text("5 / 20")
    board.get_by_role("button", name="Learn now").click()
    expect(toast).to_contain_text("asked to start")
    toast.get_by_role("button", name="Dismiss").click()
    server.restart()
    server.fake.runs["run-1"].update(step=6)
    expect(steps).to_have_text("6 / 20")
    board.get_by_role("button", name="Learn now").click()
    expect(toast).to_contain_text("asked to start")
