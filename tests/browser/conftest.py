"""Headless Chromium: one per file, a fresh context (its own cookies) per test, and no error on any page unnoticed; and
the pages over a fake service, for the files that need no real one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, expect, sync_playwright

from tests.ui.fake_service import FakeService

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 240_000  # milliseconds, against hanging: a page on a busy machine takes its time
expect.set_options(timeout=PATIENCE)

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or the one that `playwright install chromium` put where Playwright looks for it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()


def _is_cut_off(error: Error) -> bool:
    return "AbortError" in str(error)


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Opens a URL as a new browser would; `context` options as Playwright's. Script errors fail the test.

    `goes_away`: the server will be gone for a while, or the page while a reply comes; of that the console may tell.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []
    elsewhere: list[str] = []

    def open_page(url: str, goes_away: bool = False, **context: object) -> Page:
        contexts.append(chromium.new_context(**context))  # type: ignore[arg-type]  # Playwright's own keywords
        page = contexts[-1].new_page()

        def note(message: ConsoleMessage) -> None:
            if message.type == "error" and not goes_away:
                errors.append(message.text)

        page.set_default_timeout(PATIENCE)
        origin = "/".join(url.split("/")[:3])
        page.on("pageerror", lambda error: None if goes_away and _is_cut_off(error) else errors.append(str(error)))
        page.on("console", note)
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((origin, "data:", "blob:")) else elsewhere.append(request.url)
            ),
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors
    assert not elsewhere, "the pages asked other hosts for something"


@pytest.fixture
def fake(running: tuple[str, FakeService]) -> FakeService:
    """The file's service as if it had just started."""
    vars(running[1]).update(vars(FakeService(pace=0.005)))
    return running[1]


@pytest.fixture
def chat(running: tuple[str, FakeService], fake: FakeService, open_page: OpenPage) -> Page:
    return open_page(running[0])


@pytest.fixture
def board(running: tuple[str, FakeService], fake: FakeService, open_page: OpenPage) -> Page:
    """Opened with the operator link."""
    return open_page(f"{running[0]}/operator?key=right")
