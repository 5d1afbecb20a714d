"""The chat page in a browser, over a fake service: what is asked, drawn, copied, reloaded and seen."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.talking import answered, say
from tests.fixtures.waiting import until
from tests.ui.fake_service import FakeService

pytestmark = pytest.mark.browser


def test_a_reply_streams_and_says_which_adapter_answered(fake: FakeService, chat: Page) -> None:
    fake.hold_at = 20
    fake.serving["live"] = "v3"
    say(chat, "Hello")
    expect(chat.locator(".hone-text.streaming strong")).to_have_text("fine")  # drawn before the reply has ended
    fake.hold_at = None
    answered(chat)
    expect(chat.locator(".hone-text")).to_have_text("It is a fine day, and 2 + 2 makes 4.")
    expect(chat.locator(".hone-badge")).to_have_text("v3")


def test_an_example_starts_a_conversation_and_it_keeps_its_id(fake: FakeService, chat: Page) -> None:
    chat.locator(".hone-examples button").first.click()
    answered(chat)
    say(chat, "And then?")
    answered(chat, turns=2)
    assert fake.asked[1]["hone"] == fake.asked[0]["hone"]
    assert len(fake.asked[1]["messages"]) == 3
    chat.get_by_role("button", name="New chat").click()
    expect(chat.locator(".hone-welcome")).to_be_visible()
    say(chat, "Again")
    answered(chat)
    assert fake.asked[2]["hone"] != fake.asked[0]["hone"]


def test_stop_ends_the_reply_and_frees_the_engine(fake: FakeService, chat: Page) -> None:
    fake.hold_at = 5
    say(chat, "Hello")
    expect(chat.locator(".hone-text.streaming")).to_contain_text("It")
    chat.get_by_role("button", name="Stop").click()
    expect(chat.locator(".hone-tag")).to_have_text("stopped")
    until(lambda: fake.closed_streams == 1)
    expect(chat.get_by_role("button", name="Try again")).to_be_visible()
    expect(chat.get_by_role("button", name="Good reply")).to_be_visible()
    chat.reload()
    answered(chat)
    expect(chat.locator(".hone-text")).to_contain_text("It is")
    expect(chat.get_by_label("Your message")).to_have_value("")


def test_an_error_is_said_in_plain_words_and_trying_again_helps(fake: FakeService, chat: Page) -> None:
    fake.broken = "engine"
    say(chat, "Hello")
    expect(chat.get_by_role("alert")).to_contain_text("The engine is away. It is being restarted.")
    fake.broken = ""
    chat.get_by_role("button", name="Try again").click()
    answered(chat)
    expect(chat.get_by_role("alert")).to_have_count(0)


def test_a_reload_types_again_what_was_not_answered_and_nothing_else(
    fake: FakeService, running: tuple[str, FakeService], open_page: OpenPage
) -> None:
    chat = open_page(running[0], goes_away=True)
    fake.broken = "engine"
    say(chat, "Hello")
    expect(chat.get_by_role("alert")).to_be_visible()
    chat.reload()
    expect(chat.get_by_label("Your message")).to_have_value("Hello")
    fake.broken = ""
    chat.get_by_role("button", name="Send").click()
    answered(chat)
    fake.hold_at = 5
    chat.get_by_role("button", name="Try again").click()
    expect(chat.locator(".hone-text.streaming")).to_contain_text("It is")
    chat.reload()
    answered(chat)
    expect(chat.locator(".hone-text")).to_contain_text("A rather different answer")
    expect(chat.get_by_label("Your message")).to_have_value("")


def test_a_reply_is_copied(fake: FakeService, running: tuple[str, FakeService], open_page: OpenPage) -> None:
    page = open_page(running[0], permissions=["clipboard-read", "clipboard-write"])
    say(page, "Hello")
    answered(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.locator(".hone-toast")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == fake.replies[0]


def test_where_a_page_can_not_copy_it_says_so(fake: FakeService, chat: Page) -> None:
    chat.evaluate("() => { Object.defineProperty(navigator, 'clipboard', { value: undefined }) }")  # as over plain HTTP
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="Copy").click()
    expect(chat.locator(".hone-toast")).to_contain_text("doesn't let the page copy")


def test_two_browsers_are_two_people(fake: FakeService, chat: Page, open_page: OpenPage) -> None:
    other = open_page(chat.url)
    for page in (chat, other):
        say(page, "Hello")
        answered(page)
    assert fake.asked[0]["caller"] != fake.asked[1]["caller"]
    assert fake.asked[0]["hone"] != fake.asked[1]["hone"]  # although both say the same
    assert all(told["caller"].startswith("browser-") for told in fake.asked)
    assert not chat.evaluate("document.cookie")  # out of scripts' reach
    assert chat.evaluate("Object.keys(localStorage).concat(Object.keys(sessionStorage))") == []


def test_a_reload_goes_on_with_the_conversation_and_with_what_was_being_typed(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="Good reply").click()
    expect(chat.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "true")
    chat.get_by_label("Your message").fill("Half a thou")
    chat.reload()
    answered(chat)
    expect(chat.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "true")
    expect(chat.get_by_label("Your message")).to_have_value("Half a thou")
    say(chat, "And then?")
    answered(chat, turns=2)
    assert fake.asked[1]["hone"] == fake.asked[0]["hone"] and len(fake.asked[1]["messages"]) == 3
    chat.get_by_role("button", name="New chat").click()
    expect(chat.locator(".hone-welcome")).to_be_visible()
    chat.reload()
    expect(chat.locator(".hone-welcome")).to_be_visible()


def test_what_is_sent_while_a_reloaded_conversation_is_drawn_goes_on_with_it(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    fake.holds_exchanges = True
    chat.reload()
    say(chat, "And then?")
    expect(chat.locator(".hone-turn")).to_have_count(0)
    fake.holds_exchanges = False
    answered(chat, turns=2)
    expect(chat.get_by_label("Your message")).to_have_value("")
    assert fake.asked[1]["hone"] == fake.asked[0]["hone"] and len(fake.asked[1]["messages"]) == 3


def test_the_keyboard_keeps_its_place_when_the_thread_is_drawn_anew(fake: FakeService, chat: Page) -> None:
    chat.locator(".hone-examples button").first.press("Enter")
    answered(chat)
    expect(chat.get_by_label("Your message")).to_be_focused()
    up = chat.get_by_role("button", name="Good reply")
    up.press("Enter")
    expect(up).to_have_attribute("aria-pressed", "true")
    expect(up).to_be_focused()
    opener = chat.get_by_role("button", name="What was wrong?")
    opener.press("Enter")
    expect(chat.get_by_role("textbox", name="What was wrong?")).to_be_focused()
    label = chat.get_by_role("group", name="Labels").get_by_text("rude")
    label.press("Enter")
    expect(label).to_have_attribute("aria-pressed", "true")
    expect(label).to_be_focused()
    chat.get_by_role("textbox", name="What was wrong?").press("Escape")
    expect(opener).to_be_focused()


def test_it_is_marked_what_the_model_no_longer_sees(fake: FakeService, chat: Page) -> None:
    fake.context = 60
    for turn in range(1, 4):
        say(chat, f"And then, number {turn}?")
        answered(chat, turn)
    expect(chat.locator(".hone-toast")).to_contain_text("no longer sees the oldest messages")
    expect(chat.get_by_role("note")).to_contain_text("The model no longer sees what is above")
    seen = [message["content"] for message in fake.asked[-1]["messages"] if message["role"] == "user"]
    expect(chat.locator("[role=note] ~ .hone-turn .hone-prompt")).to_have_text(seen)
    chat.get_by_role("button", name="New chat").click()
    expect(chat.get_by_role("note")).to_have_count(0)


def test_the_page_has_one_main_landmark_and_names_its_parts(chat: Page) -> None:
    expect(chat.get_by_role("main")).to_have_count(1)
    expect(chat.get_by_role("region", name="Conversation")).to_be_visible()


def test_the_composer_and_the_header_stay_in_sight_of_a_long_conversation(fake: FakeService, chat: Page) -> None:
    fake.replies = ("A line.\n\n" * 80,)
    say(chat, "Hello")
    answered(chat)
    for place in ("0", "document.documentElement.scrollHeight / 2"):
        chat.evaluate(f"window.scrollTo(0, {place})")
        for part in (".hone-composer", ".hone-header"):
            expect(chat.locator(part)).to_be_in_viewport(ratio=0.99)


def test_what_a_model_writes_can_not_become_part_of_the_page(fake: FakeService, chat: Page) -> None:
    evil = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) <script>alert(1)</script>"
    fake.replies = (evil,)
    say(chat, "<b>Hello</b>")
    answered(chat)
    expect(chat.locator(".hone-text")).to_have_text(evil)
    expect(chat.locator(".hone-prompt")).to_have_text("<b>Hello</b>")
    assert chat.locator(".hone-text img, .hone-text a, .hone-text script, .hone-prompt b").count() == 0


def test_markdown_is_drawn(fake: FakeService, chat: Page) -> None:
    fake.replies = (
        "# Tea\n\nUse **hot** water:\n\n1. boil\n2. pour\n\n> patience\n\n```\nx = 1 < 2\n```\n\n[more](https://example.org/a)\na_b_c",
    )
    say(chat, "Hello")
    answered(chat)
    text = chat.locator(".hone-text")
    for selector, content in (
        ("h3", "Tea"),
        ("strong", "hot"),
        ("ol li:nth-child(2)", "pour"),
        ("blockquote", "patience"),
        ("pre code", "x = 1 < 2"),
        ("a[href='https://example.org/a']", "more"),
    ):
        expect(text.locator(selector)).to_have_text(content)
    expect(text.locator("em")).to_have_count(0)


@pytest.mark.parametrize("width", [320, 390])
def test_everything_fits_on_a_phone(
    fake: FakeService, running: tuple[str, FakeService], open_page: OpenPage, width: int
) -> None:
    fake.replies = ("A " + "very" * 60 + " long word, and `" + "code " * 30 + "`", "Short.")
    page = open_page(running[0], viewport={"width": width, "height": 720}, has_touch=True, is_mobile=True)
    page.locator(".hone-switch.two").click()
    page.get_by_label("Your message").fill("Hello")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("group", name="Which answer is better?")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("A", "B", "A tie", "Both bad"):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None and box["height"] >= 32 and box["x"] + box["width"] <= width


def test_a_message_that_is_too_long_is_said_to_be_and_stays_in_the_box(fake: FakeService, chat: Page) -> None:
    say(chat, "One")
    answered(chat)
    fake.context = 100
    message = "And so on. " * 30 + "The end."
    for _ in range(2):
        say(chat, message)
        toast = chat.locator(".hone-toast.error")
        expect(toast).to_contain_text("too long: 338 characters. The prompt has 169 tokens; the context holds 100.")
        expect(chat.get_by_label("Your message")).to_have_value(message)
        expect(chat.locator(".hone-turn")).to_have_count(1)
        expect(chat.locator(".hone-forgotten")).to_have_count(0)
        toast.get_by_role("button", name="Dismiss").click()
    fake.context = 10_000
    say(chat, message)
    answered(chat, turns=2)
    expect(chat.get_by_label("Your message")).to_have_value("")


def test_a_message_is_never_cut(fake: FakeService, chat: Page) -> None:
    say(chat, "x" * 20_001)
    expect(chat.locator(".hone-toast.error")).to_contain_text("20,001 characters")
    assert len(chat.get_by_label("Your message").input_value()) == 20_001
