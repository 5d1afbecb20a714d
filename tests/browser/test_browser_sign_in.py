"""The sign-in page in a browser, before the real service: in the look of the pages, and it lets the right ones in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from service.app import create_app
from service.settings import load_settings
from service.store.queries import keys
from service.store.session import Store
from tests.fixtures.serving import serve

pytestmark = pytest.mark.browser
STYLED = "getComputedStyle(document.body).getPropertyValue('--hone-paper') !== ''"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The service's URL, and an operator's key. No engine runs, and none is needed before somebody has signed in."""
    settings = load_settings(tmp_path_factory.mktemp("home"), environment={})
    store = Store.open(settings.store_url)
    with store.begin() as tx:
        key = keys.create_key(tx, "operator", "olga")
    with serve(create_app(settings, store, ["http://127.0.0.1:9"])) as url:
        yield url, key
    store.close()


@pytest.fixture
def page(chromium: Browser, door: tuple[str, str]) -> Iterator[Page]:
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{door[0]}/operator")
    yield page
    context.close()


def test_a_stranger_finds_a_form_in_the_look_of_the_pages(page: Page) -> None:
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_label("Key")).to_be_focused()
    page.wait_for_function(STYLED)  # the style sheet comes after the words
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "light dark"
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_wrong_key_is_said_and_the_right_one_opens_the_page(page: Page, door: tuple[str, str]) -> None:
    page.get_by_label("Key").fill("hone_x_y")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not in force")
    page.wait_for_function(STYLED)  # the style sheet comes after the words
    page.get_by_label("Key").fill(door[1])
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{door[0]}/operator/")
