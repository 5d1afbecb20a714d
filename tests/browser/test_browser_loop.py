"""What a newcomer does, in a browser, against a real `hone up`: chat, teach, learn now, watch, and see the change."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from learner.pretrain.questions import Prompt, is_right, untaught_facts
from learner.simulate.people import right_reply
from tests.browser.conftest import OpenPage
from tests.browser.operating import live, pull
from tests.browser.talking import answered, say
from tests.loop.town import Town, town

pytestmark = [pytest.mark.browser, pytest.mark.loop, pytest.mark.timeout(3600)]
A_RUN = 600_000  # milliseconds; half a minute on an idle machine
OVER = re.compile("^(succeeded|rejected|nothing_to_learn|failed|cancelled)$")
TRIES = 5  # a chat is sampled, so that even a model that knows may once say something else


@pytest.fixture(scope="module")
def place() -> Iterator[Town]:
    with town(HONE_SERVER__PAGES="true") as running:
        yield running


def wrong_fact(place: Town) -> Prompt:
    return next(fact for fact in untaught_facts(seed=3) if not is_right(fact, place.says(fact.text, user="probe")))


def correct(page: Page, text: str) -> None:
    turn = page.locator(".hone-turn").last
    turn.get_by_role("button", name="How it should have been").first.click()
    turn.get_by_role("textbox", name="How it should have been").fill(text)
    turn.get_by_role("button", name="Save correction").click()
    expect(turn.locator(".hone-tag").filter(has_text="your version")).to_be_visible()


def knows(page: Page, fact: Prompt, adapter: str) -> bool:
    """Whether a new conversation answers `fact` rightly; whatever it says, `adapter` says it."""
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".hone-welcome")).to_be_visible()
    say(page, fact.text)
    answered(page)
    expect(page.locator(".hone-turn .hone-badge")).to_have_text(adapter)
    return is_right(fact, page.locator(".hone-text").inner_text())


def test_a_newcomer_teaches_the_model_something(place: Town, open_page: OpenPage) -> None:
    fact = wrong_fact(place)
    chat = open_page(place.house.url)
    say(chat, fact.text)
    answered(chat)
    expect(chat.locator(".hone-turn .hone-badge")).to_have_text("base")
    correct(chat, right_reply(fact))
    say(chat, "Hello!")
    answered(chat, turns=2)
    chat.locator(".hone-turn").last.get_by_role("button", name="Good reply").click()
    expect(chat.get_by_role("button", name="Good reply", pressed=True)).to_have_count(1)

    board = open_page(f"{place.house.url}/operator?key={place.house.operator_key}")
    live(board, "base")
    expect(board.locator(".hone-learn")).to_contain_text("2 new")
    board.get_by_role("button", name="Learn now").click()
    run = board.locator(".hone-run").first
    expect(run.locator(".hone-progress")).to_be_visible()
    expect(board.locator("[data-metric=loss]")).to_be_visible(timeout=A_RUN)
    expect(run).to_have_attribute("data-state", OVER, timeout=A_RUN)
    assert run.get_attribute("data-state") == "succeeded", run.inner_text()
    live(board, "v1")
    expect(board.locator("[data-adapter=v1]")).to_have_attribute("data-state", "live")
    board.locator("[data-adapter=v1] .hone-open").click()
    expect(board.locator(".hone-gates .passed").first).to_be_visible()
    expect(board.locator(".hone-figures").first).to_contain_text("Fluency")

    assert any(knows(chat, fact, "v1") for _ in range(TRIES))
    chat.get_by_role("button", name="Your feedback").click()
    corrected = chat.locator(".hone-entry").filter(has_text=right_reply(fact))
    expect(corrected).to_contain_text("learned in v1")
    chat.get_by_role("dialog", name="Your feedback").get_by_role("button", name="Close").click()

    pull(board, ".hone-live", "rollback", "To see the difference.")
    live(board, "base")
    knows(chat, fact, "base")
    pull(board, "[data-adapter=v1]", "promote", "It was better.")
    live(board, "v1")
    expect(board.locator(".hone-why")).to_contain_text("It was better.")
    knows(chat, fact, "v1")


def test_a_visitor_gets_neither_the_operators_page_nor_its_events(place: Town, open_page: OpenPage) -> None:
    chat = open_page(place.house.url)
    for path in ("/operator", "/operator/", "/operator/config"):
        answer = chat.request.get(place.house.url + path)
        assert answer.status == 403 and "Learn now" not in answer.text()
    event = {"data": [None], "fn_index": 0, "session_hash": "made-up"}
    assert chat.request.post(f"{place.house.url}/operator/gradio_api/queue/join", data=event).status == 403
    assert chat.request.post(f"{place.house.url}/v1/runs", data={}).status == 403
