"""What every test of a chat begins with: something is said, and answered."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def answered(page: Page, turns: int = 1) -> None:
    """Wait until the last of so many turns has a finished reply."""
    expect(page.locator(".hone-turn")).to_have_count(turns)
    expect(page.locator(".hone-turn").last.get_by_role("button", name="Good reply").first).to_be_visible()
