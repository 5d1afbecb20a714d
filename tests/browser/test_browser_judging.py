"""The chat page in a browser, over a fake service: all that a person can say of a reply, and take back."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.talking import answered, say
from tests.ui.fake_service import FakeService

pytestmark = pytest.mark.browser


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
    kept, waits = "kept; not learned from by itself", "waiting to be learned"
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
    expect(chat.get_by_role("button", name="Good reply")).to_have_count(0)  # it would be about the reply replaced
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
    expect(chat.get_by_role("button", name="Good reply")).to_have_count(1)
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


def test_two_answers_that_never_came_are_not_compared(fake: FakeService, chat: Page) -> None:
    fake.broken = "engine"
    chat.locator(".hone-switch.two").click()
    say(chat, "Hello")
    expect(chat.get_by_role("alert")).to_be_visible()
    expect(chat.get_by_role("button", name="Try again")).to_be_visible()
    expect(chat.locator(".hone-verdict")).to_have_count(0)


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
