"""The chat page in a browser, over a fake service: everything a person can press."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.fixtures.waiting import until
from tests.ui.fake_service import FakeService

pytestmark = pytest.mark.browser


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def answered(page: Page, turns: int = 1) -> None:
    """Wait until the last of so many turns has a finished reply."""
    expect(page.locator(".hone-turn")).to_have_count(turns)
    expect(page.locator(".hone-turn").last.get_by_role("button", name="Good reply").first).to_be_visible()


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


def test_thumbs_belong_to_their_reply_and_can_be_changed_and_taken_back(fake: FakeService, chat: Page) -> None:
    for turn, text in enumerate(("One", "Two"), start=1):
        say(chat, text)
        answered(chat, turn)
    first = chat.locator(".hone-turn").first
    up, down = first.get_by_role("button", name="Good reply"), first.get_by_role("button", name="Bad reply")
    up.click()
    expect(up).to_have_attribute("aria-pressed", "true")
    assert fake.feedback["fb-1"]["feedback"] == {
        "kind": "thumb",
        "exchange_id": "chatcmpl-1",
        "index": 0,
        "good": True,
    }
    down.click()
    expect(down).to_have_attribute("aria-pressed", "true")
    expect(up).to_have_attribute("aria-pressed", "false")
    down.click()
    expect(down).to_have_attribute("aria-pressed", "false")
    assert len(fake.feedback) == 1 and fake.feedback["fb-1"]["withdrawn"]
    expect(chat.locator(".hone-turn").last.get_by_role("button", name="Good reply")).to_have_attribute(
        "aria-pressed", "false"
    )


def test_a_thumb_down_leaves_the_editor_that_is_open(chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="How it should have been").click()
    editor = chat.get_by_role("textbox", name="How it should have been")
    editor.fill("Half a senten")
    chat.get_by_role("button", name="Bad reply").click()
    expect(chat.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "true")
    expect(editor).to_have_value("Half a senten")
    chat.get_by_role("button", name="Cancel").click()
    chat.get_by_role("button", name="What was wrong?").click()
    chat.get_by_role("button", name="Bad reply").click()  # takes it back
    chat.get_by_role("button", name="Bad reply").click()
    expect(chat.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "true")
    expect(chat.get_by_role("textbox", name="What was wrong?")).to_be_visible()


def test_what_was_wrong_labels_and_a_score_are_told(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="Bad reply").click()  # opens the editor
    chat.get_by_role("group", name="Score").get_by_text("3", exact=True).click()
    expect(chat.get_by_role("group", name="Score").get_by_text("3", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    for label in ("wrong", "rude"):
        chat.get_by_role("group", name="Labels").get_by_text(label).click()
        expect(chat.get_by_role("group", name="Labels").get_by_text(label)).to_have_attribute("aria-pressed", "true")
    chat.get_by_role("textbox", name="What was wrong?").fill("Far too cheerful.")
    chat.get_by_role("button", name="Save", exact=True).click()
    expect(chat.locator(".hone-toast")).to_contain_text("Thank you")
    told = [stored["feedback"] for stored in fake.feedback.values()]
    assert [feedback["kind"] for feedback in told] == ["thumb", "score", "label", "critique"]
    assert (told[1]["score"], told[2]["labels"]) == (3, ["wrong", "rude"])
    assert told[3]["text"] == "Far too cheerful."
    chat.get_by_role("button", name="Your feedback").click()
    fates = chat.get_by_role("dialog", name="Your feedback").locator(".hone-entry .hone-tag")
    kept, waits = "kept; not used for learning yet", "waiting to be learned"
    expect(fates).to_have_text([waits, kept, waits, waits])


def test_a_correction_goes_on_as_the_reply(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="How it should have been").click()
    editor = chat.get_by_role("textbox", name="How it should have been")
    expect(editor).to_have_value(fake.replies[0])
    chat.get_by_role("button", name="Save correction").click()  # nothing was changed: said at once, not sent
    expect(chat.locator(".hone-toast.error")).to_contain_text("as it stands")
    editor.fill("Lisbon, of course.")
    chat.get_by_role("button", name="Save correction").click()
    expect(chat.locator(".hone-text")).to_have_text("Lisbon, of course.")
    expect(chat.locator(".hone-tag")).to_have_text("your version")
    say(chat, "Sure?")
    answered(chat, turns=2)
    assert fake.asked[1]["messages"][1]["content"] == "Lisbon, of course."
    assert fake.feedback["fb-1"]["feedback"]["text"] == "Lisbon, of course."


def test_what_is_written_stays_until_it_is_stored(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    for opener, save in (("How it should have been", "Save correction"), ("What was wrong?", "Save")):
        chat.get_by_role("button", name=opener).click()
        editor, button = chat.get_by_role("textbox", name=opener), chat.get_by_role("button", name=save, exact=True)
        editor.fill("Lisbon, of course.")
        fake.refuses_feedback = fake.holds_feedback = True
        button.click()
        expect(button).to_be_disabled()
        expect(editor).not_to_be_editable()
        fake.holds_feedback = False
        expect(chat.locator(".hone-toast.error").last).to_contain_text("The store is busy.")
        expect(editor).to_be_editable()
        expect(editor).to_have_value("Lisbon, of course.")
        fake.refuses_feedback = False
        button.click()
        expect(chat.locator(".hone-panel")).to_have_count(0)
        expect(chat.get_by_role("button", name=opener)).to_be_focused()
    told = [stored["feedback"] for stored in fake.feedback.values()]
    assert [(feedback["kind"], feedback["text"]) for feedback in told] == [
        ("correction", "Lisbon, of course."),
        ("critique", "Lisbon, of course."),
    ]


def test_a_correction_is_taken_back(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    opener = chat.get_by_role("button", name="How it should have been")
    opener.click()
    chat.get_by_role("textbox", name="How it should have been").fill("Lisbon, of course.")
    chat.get_by_role("button", name="Save correction").click()
    expect(chat.locator(".hone-tag")).to_have_text("your version")
    opener.click()
    chat.get_by_role("button", name="Take it back").click()
    expect(chat.locator(".hone-panel")).to_have_count(0)
    expect(chat.locator(".hone-text")).to_contain_text("fine")
    assert fake.feedback["fb-1"]["withdrawn"]


def test_of_two_answers_the_picked_one_goes_on(fake: FakeService, chat: Page) -> None:
    chat.locator(".hone-switch.two").click()
    say(chat, "Hello")
    expect(chat.locator(".hone-pair .hone-reply")).to_have_count(2)
    choices = chat.get_by_role("group", name="Which answer is better?")
    choices.get_by_role("button", name="B", exact=True).click()
    expect(chat.locator(".hone-verdict")).to_contain_text("You preferred B.")
    expect(chat.locator(".hone-turn > .hone-reply .hone-text")).to_contain_text("A rather different answer")
    chat.locator(".hone-switch.two").click()
    say(chat, "Go on")
    answered(chat, turns=2)
    assert fake.asked[0]["n"] == 2 and fake.asked[1]["messages"][1]["content"] == fake.replies[1]
    told = fake.feedback["fb-1"]["feedback"]
    assert (told["a"]["index"], told["b"]["index"], told["verdict"]) == (0, 1, "b")


def test_a_pick_can_be_changed_while_it_is_the_last(fake: FakeService, chat: Page) -> None:
    chat.locator(".hone-switch.two").click()
    say(chat, "Hello")
    chat.get_by_role("button", name="A tie").click()
    expect(chat.locator(".hone-verdict")).to_contain_text("a tie")
    chat.get_by_role("button", name="Change").click()
    chat.get_by_role("button", name="Both bad").click()
    expect(chat.locator(".hone-verdict")).to_contain_text("both bad")
    expect(chat.get_by_role("textbox", name="How it should have been")).to_be_visible()  # the natural next word
    kept = [stored["feedback"]["verdict"] for stored in fake.feedback.values() if not stored["withdrawn"]]
    assert kept == ["both_bad"]
    chat.locator(".hone-switch.two").click()
    say(chat, "Go on")  # without having written anything
    answered(chat, turns=2)
    expect(chat.locator(".hone-panel")).to_have_count(0)


def test_a_notice_covers_nothing_that_was_said(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="What was wrong?").click()
    chat.get_by_role("textbox", name="What was wrong?").fill("Far too cheerful.")
    chat.get_by_role("button", name="Save", exact=True).click()
    toast, prompt = chat.locator(".hone-toast"), chat.locator(".hone-prompt")
    expect(toast).to_contain_text("Thank you")
    over, under = toast.bounding_box(), prompt.bounding_box()
    assert over is not None and under is not None and over["y"] + over["height"] <= under["y"]


def test_trying_again_asks_which_was_better(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="Try again").click()
    expect(chat.locator(".hone-text")).to_contain_text("A rather different answer")
    chat.get_by_role("button", name="Worse").click()
    expect(chat.locator(".hone-text")).to_contain_text("fine")
    told = fake.feedback["fb-1"]["feedback"]
    assert (told["a"]["exchange_id"], told["b"]["exchange_id"], told["verdict"]) == ("chatcmpl-2", "chatcmpl-1", "b")


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


def test_two_answers_that_never_came_are_not_compared(fake: FakeService, chat: Page) -> None:
    fake.broken = "engine"
    chat.locator(".hone-switch.two").click()
    say(chat, "Hello")
    expect(chat.get_by_role("alert")).to_be_visible()
    expect(chat.get_by_role("button", name="Try again")).to_be_visible()
    expect(chat.locator(".hone-verdict")).to_have_count(0)


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


def test_ones_own_feedback_is_listed_with_where_it_shipped_and_can_be_withdrawn(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="Good reply").click()
    expect(chat.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "true")
    fake.feedback["fb-1"]["learned_in"] = ["v12"]
    chat.get_by_role("button", name="Your feedback").click()
    drawer = chat.get_by_role("dialog", name="Your feedback")
    expect(drawer.locator(".hone-tag.shipped")).to_have_text("learned in v12")
    drawer.get_by_role("button", name="Withdraw").click()
    expect(drawer).to_contain_text("withdrawn")
    drawer.get_by_role("button", name="Close").click()
    expect(drawer).to_be_hidden()
    expect(chat.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "false")
    assert fake.feedback["fb-1"]["withdrawn"]


def test_of_what_many_adapters_learned_the_first_and_the_newest_are_named(fake: FakeService, chat: Page) -> None:
    say(chat, "Hello")
    answered(chat)
    chat.get_by_role("button", name="Good reply").click()
    expect(chat.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "true")
    fake.feedback["fb-1"]["learned_in"] = ["v3", "v12"]
    chat.get_by_role("button", name="Your feedback").click()
    expect(chat.locator(".hone-tag.shipped")).to_have_text("learned in v3, last in v12")


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


def test_a_reload_shows_again_which_of_two_answers_was_picked(fake: FakeService, chat: Page) -> None:
    chat.locator(".hone-switch.two").click()
    say(chat, "Hello")
    chat.get_by_role("group", name="Which answer is better?").get_by_role("button", name="B", exact=True).click()
    expect(chat.locator(".hone-verdict")).to_contain_text("You preferred B.")
    chat.reload()
    expect(chat.locator(".hone-verdict")).to_contain_text("You preferred B.")
    expect(chat.locator(".hone-turn > .hone-reply .hone-text")).to_contain_text("A rather different answer")
    chat.get_by_role("button", name="Change").click()
    expect(chat.get_by_role("group", name="Which answer is better?")).to_be_visible()
    assert fake.feedback["fb-1"]["withdrawn"]
    chat.reload()
    expect(chat.get_by_role("group", name="Which answer is better?")).to_be_visible()  # still open, and not lost


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
