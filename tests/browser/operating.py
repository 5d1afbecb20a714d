"""What an operator sees and does on the operator's page."""

from __future__ import annotations

from playwright.sync_api import Page, expect

CUT = """nodes => nodes.filter(
    node => node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1
).map(node => node.className)"""


def live(page: Page, name: str) -> None:
    expect(page.locator(".hone-live .hone-name")).to_have_text(name)


def pull(page: Page, within: str, lever: str, reason: str) -> None:
    page.locator(f"{within} [data-lever={lever}]").click()
    page.get_by_label("Reason").fill(reason)
    page.locator(".hone-dialog button[type=submit]").click()
    expect(page.locator(".hone-dialog")).to_have_count(0)
