"""The constitution in a browser, over a fake service: a reply by principles, and the operator's desk."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.operating import CUT
from tests.ui.fake_service import FakeService

pytestmark = pytest.mark.browser


@pytest.fixture
def desk(running: tuple[str, FakeService], fake: FakeService, open_page: OpenPage) -> Page:
    """The operator's page with the constitution unfolded, ready to be edited."""
    page = open_page(f"{running[0]}/operator?key=right")
    page.locator(".hone-desk summary").first.click()
    page.get_by_text("Edit, try, and put in effect").click()
    return page


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_reply_by_principles_shows_what_goes_on_and_how_it_was_made(fake: FakeService, chat: Page) -> None:
    fake.hold_stage = "draft"
    chat.get_by_text("By principles").click()
    ask(chat, "How do I pick a lock?")
    for stage, following, said, text in (
        ("draft", "critique", "Drafting", "Take a pin."),
        ("critique", "revision", "Looking at it no-harm", "It helps to do harm."),
        ("revision", "", "Revising no-harm", "It is a"),
    ):
        assert fake.hold_stage == stage
        expect(chat.locator(".hone-stage")).to_have_text(said)
        expect(chat.locator(".hone-unsettled")).to_have_text(text)
        fake.hold_stage = following
    expect(chat.locator(".hone-made summary")).to_contain_text("Revised · constitution c1")
    expect(chat.locator(".hone-stage")).to_have_count(0)
    expect(chat.locator(".hone-made dl")).to_be_hidden()
    chat.locator(".hone-made summary").click()
    for text in ("Take a pin.", "It helps to do harm.", "no-harm"):
        expect(chat.locator(".hone-made dl")).to_contain_text(text)
    assert fake.asked[-1]["hone"]["constitutional"] is True


def test_a_reply_that_is_stopped_while_it_is_made_can_be_asked_for_again(fake: FakeService, chat: Page) -> None:
    fake.hold_stage = "critique"
    chat.get_by_text("By principles").click()
    ask(chat, "How do I pick a lock?")
    expect(chat.locator(".hone-stage")).to_contain_text("Looking at it")
    expect(chat.get_by_text("stopped")).to_have_count(0)
    chat.get_by_role("button", name="Stop").click()
    expect(chat.get_by_text("stopped")).to_be_visible()
    fake.hold_stage = ""
    chat.get_by_role("button", name="Try again").click()
    expect(chat.locator(".hone-made summary")).to_contain_text("Revised")
    expect(chat.get_by_text("stopped")).to_have_count(0)


def test_the_switch_belongs_to_the_conversation_and_survives_a_reload(fake: FakeService, chat: Page) -> None:
    switch = chat.get_by_role("switch", name="By principles")
    chat.get_by_text("By principles").click()
    ask(chat, "How do I pick a lock?")
    expect(chat.locator(".hone-made")).to_have_count(1)
    chat.reload()
    expect(chat.locator(".hone-made summary")).to_contain_text("Revised")
    expect(switch).to_be_checked()
    chat.get_by_role("button", name="New chat").click()
    expect(switch).not_to_be_checked()
    ask(chat, "Hello")
    expect(chat.get_by_role("button", name="Good reply")).to_be_visible()
    assert "constitutional" not in fake.asked[-1]["hone"]
    expect(chat.locator(".hone-made")).to_have_count(0)


def test_two_answers_and_one_by_principles_exclude_each_other(chat: Page) -> None:
    two, rules = chat.get_by_role("switch", name="Two answers"), chat.get_by_role("switch", name="By principles")
    chat.get_by_text("Two answers", exact=True).click()
    chat.get_by_text("By principles", exact=True).click()
    expect(two).not_to_be_checked()
    expect(chat.locator(".hone-toast")).to_contain_text("“Two answers” is off")
    chat.get_by_text("Two answers", exact=True).click()
    expect(rules).not_to_be_checked()
    expect(chat.locator(".hone-toast").last).to_contain_text("“By principles” is off until you switch")
    ask(chat, "Hello")
    expect(chat.get_by_text("Which is better?")).to_be_visible()
    chat.get_by_text("Two answers", exact=True).click()
    expect(rules).to_be_checked()
    chat.get_by_text("By principles", exact=True).click()
    for _ in range(2):  # what was switched off by hand stays off
        chat.get_by_text("Two answers", exact=True).click()
    expect(rules).not_to_be_checked()


def test_what_the_service_does_for_nobody_or_for_everybody_is_no_choice(
    fake: FakeService, running: tuple[str, FakeService], open_page: OpenPage
) -> None:
    fake.policy = "never"
    page = open_page(running[0])
    expect(page.get_by_text("By principles")).to_be_hidden()
    expect(page.get_by_text("Two answers", exact=True)).to_be_visible()
    fake.policy = "always"
    page = open_page(running[0])
    expect(page.get_by_text("Two answers", exact=True)).to_be_hidden()
    rules = page.get_by_role("switch", name="By principles")
    expect(rules).to_be_checked()
    expect(rules).to_be_disabled()
    ask(page, "How do I pick a lock?")
    expect(page.get_by_role("button", name="Good reply")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Is this one better than the one before?")).to_be_visible()
    assert all("constitutional" not in body["hone"] and body["n"] == 1 for body in fake.asked)
    page.reload()
    expect(page.get_by_text("How do I pick a lock?")).to_be_visible()
    expect(rules).to_be_disabled()


def test_a_text_is_checked_tried_and_put_in_effect(fake: FakeService, desk: Page) -> None:
    expect(desk.locator(".hone-desk summary").first).to_contain_text("c0")
    expect(desk.locator(".hone-principles")).to_contain_text("Be no-harm.")
    text = desk.get_by_label("Constitution (TOML)")
    expect(text).to_have_value("title = 'As it comes'")
    desk.get_by_role("button", name="Check").click()
    expect(desk.locator(".hone-desk .hone-error")).to_contain_text("principles: is missing")
    edited = '[[principles]]\nname = "true"'
    text.fill(edited)
    expect(desk.locator(".hone-desk .hone-error")).to_have_count(0)
    desk.get_by_role("button", name="Check").click()
    expect(desk.locator(".hone-desk")).to_contain_text("It is sound")
    text.fill(f'preamble = "…"\n{edited}')
    desk.get_by_role("button", name="Check").click()
    expect(desk.locator(".hone-desk")).to_contain_text("2 principles. Little room is left.")
    text.fill(edited)
    desk.get_by_label("Prompt to try it on").fill("How do I pick a lock?")
    desk.get_by_role("button", name="Try", exact=True).click()
    harm = desk.locator("[data-principle=no-harm]")
    expect(harm).to_contain_text("the revision is better")
    expect(desk.locator("[data-principle=true]")).to_contain_text("Nothing is wrong.")
    choice = desk.get_by_label("Principle", exact=True)
    expect(choice.get_by_role("option")).to_have_text(["every principle", "true"])
    choice.select_option("true")
    desk.get_by_role("button", name="Try", exact=True).click()
    expect(harm).to_have_count(0)
    asked = {"prompt": "How do I pick a lock?", "constitution": edited}
    assert fake.acted == [("try", asked | {"principle": None}), ("try", asked | {"principle": "true"})]
    put_in_effect(desk, "Stricter.")
    expect(desk.locator(".hone-desk")).to_contain_text("c1 is in effect.")
    expect(desk.locator(".hone-desk summary").first).to_contain_text("c1")
    assert fake.constitutions[0]["note"] == "Stricter."


def test_nothing_is_in_effect_before_the_dialog_is_answered(fake: FakeService, desk: Page) -> None:
    desk.get_by_label("Constitution (TOML)").fill("[[principles]] # one")
    desk.get_by_role("button", name="Put in effect…").click()
    dialog = desk.get_by_role("dialog", name="Put it in effect")
    expect(dialog).to_contain_text("from now on")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    assert not fake.constitutions


def put_in_effect(desk: Page, why: str = "") -> None:
    desk.get_by_role("button", name="Put in effect…").click()
    dialog = desk.get_by_role("dialog", name="Put it in effect")
    dialog.get_by_label("Reason").fill(why)
    dialog.get_by_role("button", name="Put in effect").click()


def test_an_older_version_is_opened_to_go_back_to(fake: FakeService, desk: Page) -> None:
    text = desk.get_by_label("Constitution (TOML)")
    for written in ("[[principles]] # one", "[[principles]] # two"):
        text.fill(written)
        put_in_effect(desk)
        expect(desk.locator(".hone-desk summary").first).to_contain_text("c1" if "one" in written else "c2")
    desk.get_by_text("Versions").click()
    desk.get_by_role("listitem").filter(has_text="c1").get_by_role("button", name="Edit this one").click()
    expect(text).to_have_value("[[principles]] # one")
    desk.get_by_role("button", name="Check").click()
    expect(desk.locator(".hone-desk")).to_contain_text("It is sound")
    expect(text).to_have_value("[[principles]] # one")
    expect(desk.get_by_role("listitem").filter(has_text="c0")).to_have_text("c0 comes with Hone Edit this one")
    desk.get_by_role("listitem").filter(has_text="c0").get_by_role("button", name="Edit this one").click()
    expect(text).to_have_value("title = 'As it comes'")


def test_one_that_can_not_be_used_is_told_and_another_is_put_in_its_place(fake: FakeService, desk: Page) -> None:
    text = desk.get_by_label("Constitution (TOML)")
    text.fill("[[principles]] # one")
    put_in_effect(desk)
    expect(desk.locator(".hone-desk summary").first).to_contain_text("c1")
    fake.unusable = "The constitution c1 has format 9; this Hone knows 1."
    desk.reload()
    desk.locator(".hone-desk summary").first.click()
    expect(desk.get_by_role("alert")).to_contain_text("has format 9")
    desk.get_by_text("Edit, try, and put in effect").click()
    desk.get_by_text("Versions").click()
    desk.get_by_role("listitem").filter(has_text="c1").get_by_role("button", name="Edit this one").click()
    expect(text).to_have_value("[[principles]] # one")
    fake.unusable = ""
    put_in_effect(desk)
    expect(desk.locator(".hone-desk")).to_contain_text("c2 is in effect.")
    expect(desk.get_by_role("alert")).to_have_count(0)


def test_who_is_no_operator_sees_no_constitution(running: tuple[str, FakeService], open_page: OpenPage) -> None:
    page = open_page(f"{running[0]}/operator")
    expect(page.get_by_role("heading", name="Operators only")).to_be_visible()
    expect(page.locator(".hone-principles, .hone-source")).to_have_count(0)


@pytest.mark.parametrize("width", [320, 768])
def test_both_fit_on_a_small_screen(fake: FakeService, chat: Page, desk: Page, width: int) -> None:
    for page in (chat, desk):
        page.set_viewport_size({"width": width, "height": 800})
    desk.get_by_label("Prompt to try it on").fill("How do I pick a lock?")
    desk.get_by_role("button", name="Try", exact=True).click()
    expect(desk.locator("[data-principle=no-harm]")).to_be_visible()
    assert desk.locator(".hone-card, .hone-principles li, .hone-trial section").evaluate_all(CUT) == []
    chat.get_by_text("By principles").click()
    ask(chat, "How do I pick a lock?")
    chat.locator(".hone-made summary").click()
    for page in (chat, desk):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
