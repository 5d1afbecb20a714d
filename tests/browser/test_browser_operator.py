"""The operator's page in a browser, over a fake service."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.operating import CUT, live, pull
from tests.learner.sound_reports import SOUND_CONSTITUTION
from tests.ui.fake_api_objects import fake_adapter, fake_run
from tests.ui.fake_service import FakeService

pytestmark = pytest.mark.browser

REPORT = {
    "share_won": {"value": 0.714, "low": 0.62, "high": 0.79, "decided": 98, "ties": 3},
    "fluency": -0.08,
    "mean_length": 8.0,
    "mean_length_base": 14.0,
    "gates": [
        {"name": "fluent", "passed": True, "reason": "Fluency is -0.080 nats a token."},
        {"name": "no empty replies", "passed": False, "reason": "12 % of the replies are empty."},
    ],
}

OVERLAPPING = """nodes => nodes.map(node => node.getBoundingClientRect()).filter((one, i, all) => all.slice(i + 1).some(
    other => one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom
))"""
STROKES = "nodes => nodes.map(node => getComputedStyle(node).stroke)"


@pytest.fixture
def fake(fake: FakeService) -> FakeService:
    """With an adapter that is live and one that waits."""
    fake.adapters["v1"] = fake_adapter("v1", "live", created_at="2026-11-01T00:00:00Z", reason="Won 71 %.")
    fake.adapters["v2"] = fake_adapter("v2", "candidate", created_at="2026-11-02T00:00:00Z", parent="v1", report=REPORT)
    fake.serving.update(live="v1", previous="base")
    return fake


def test_the_link_opens_the_page_and_leaves_no_key_behind(board: Page) -> None:
    live(board, "v1")
    expect(board.locator(".hone-why")).to_have_text("Won 71 %.")
    assert "key" not in board.url


def test_a_user_is_told_that_it_is_for_operators(
    fake: FakeService, running: tuple[str, FakeService], open_page: OpenPage
) -> None:
    page = open_page(f"{running[0]}/operator")
    expect(page.get_by_role("heading", name="Operators only")).to_be_visible()
    expect(page.locator("[data-lever], .hone-adapter, .hone-run")).to_have_count(0)


def test_an_adapter_shows_what_the_constitution_measured(fake: FakeService, board: Page) -> None:
    judged = {"judged_as_people": None, "peoples_pairs": 0, "harmful_by_principle": {"no-harm": 0.04}}
    fake.adapters["v2"].update(report=REPORT | {"constitution": SOUND_CONSTITUTION | judged})
    adapter = board.locator("[data-adapter=v2]")
    adapter.locator(".hone-open").click()
    part = adapter.get_by_role("region", name="By the constitution")
    expect(part.locator("thead")).to_have_text("v2v1base")
    expect(part.locator("[data-figure=harmful] td")).to_contain_text(["2.0 %", "10.0 %", "20.0 %"])
    expect(part.locator("[data-figure='harmful no-harm'] td")).to_have_text(["4.0 %", "–", "–"])
    expect(part.locator("[data-figure=judged_as_people] td")).to_have_text("–")
    expect(part.get_by_role("img", name="v2: 98 % harmless, 49 % won against the base")).to_be_visible()
    expect(part.locator(".hone-frontier > svg circle")).to_have_count(3)
    expect(part.locator(".hone-places li")).to_contain_text(
        ["base 80 % harmless", "v1 90 % harmless", "v2 98 % harmless"]
    )
    assert len(set(part.locator(".hone-places circle").evaluate_all(STROKES))) == 3
    board.set_viewport_size({"width": 320, "height": 800})
    assert board.evaluate("document.documentElement.scrollWidth") <= 320
    assert part.locator("tbody tr:first-child > *").evaluate_all(OVERLAPPING) == []
    assert part.locator(".hone-frontier > svg, .hone-places li, figcaption").evaluate_all(OVERLAPPING) == []


def test_an_adapter_shows_its_figures_its_gates_and_its_history(fake: FakeService, board: Page) -> None:
    adapter = board.locator("[data-adapter=v2]")
    adapter.locator(".hone-open").click()
    expect(adapter.locator(".hone-figures")).to_contain_text("71.4 %")
    expect(adapter.locator(".hone-gates .stopped")).to_contain_text("12 % of the replies are empty.")
    expect(adapter.locator(".hone-gates .passed")).to_have_count(1)
    expect(adapter.locator(".hone-gates .passed")).to_contain_text("Reads naturally")
    for explained in adapter.locator(".hone-figures tbody th small, .hone-gates small").all():
        expect(explained).to_be_visible()
    expect(adapter.locator("[data-figure=share_won]")).to_contain_text("beat those of the adapter it started from")
    expect(adapter.locator(".hone-principled")).to_have_count(0)  # no constitution measured it
    expect(adapter.locator(".hone-history")).to_contain_text("by rollout")
    expect(adapter.locator(".hone-lineage")).to_contain_text("v1")


def test_promote_and_roll_back_with_a_reason(fake: FakeService, board: Page) -> None:
    pull(board, "[data-adapter=v2]", "promote", "It reads better.")
    live(board, "v2")
    expect(board.locator(".hone-why")).to_have_text("It reads better.")
    pull(board, ".hone-live", "rollback", "It does not.")
    live(board, "v1")
    assert fake.acted == [
        ("promote", {"name": "v2", "reason": "It reads better."}),
        ("rollback", {"to": None, "reason": "It does not."}),
    ]


def test_a_canary_gets_its_share_and_ends(fake: FakeService, board: Page) -> None:
    board.locator("[data-adapter=v2] [data-lever=canary]").click()
    board.get_by_label("Share of conversations, in percent").fill("25")
    board.locator(".hone-dialog button[type=submit]").click()
    expect(board.locator(".hone-canary")).to_contain_text("answers 25 % of conversations")
    board.get_by_role("button", name="End it").click()
    expect(board.locator(".hone-canary")).to_have_count(0)
    assert [action for action, _ in fake.acted] == ["canary", "end_canary"]


def test_a_rejected_adapter_has_no_levers_left(fake: FakeService, board: Page) -> None:
    pull(board, "[data-adapter=v2]", "reject", "Empty replies.")
    expect(board.locator("[data-adapter=v2]")).to_have_attribute("data-state", "rejected")
    expect(board.locator("[data-adapter=v2]")).to_contain_text("Empty replies.")
    expect(board.locator("[data-adapter=v2] [data-lever]")).to_have_count(0)


def test_what_the_service_refuses_is_said(fake: FakeService, board: Page) -> None:
    board.locator("[data-adapter=v2] [data-lever=promote]").click()
    del fake.adapters["v2"]  # while the person thinks
    board.locator(".hone-dialog button[type=submit]").click()
    expect(board.locator(".hone-toast.error")).to_contain_text("There is no adapter v2.")
    expect(board.locator(".hone-toast.error")).to_have_count(0)  # it goes by itself


def test_a_notice_can_be_dismissed(fake: FakeService, board: Page) -> None:
    board.get_by_role("button", name="Learn now").click()
    toast = board.locator(".hone-toast")
    expect(toast).to_contain_text("asked to start")
    press = "button => { button.click(); return document.querySelectorAll('.hone-toast').length; }"
    left = toast.get_by_role("button", name="Dismiss").evaluate(press)
    assert left == 0  # at once, and not only when its time is over


def test_the_page_has_one_main_landmark(board: Page) -> None:
    live(board, "v1")
    expect(board.get_by_role("main")).to_have_count(1)


@pytest.mark.parametrize("width", [320, 768])
def test_what_opens_over_the_board_fits_on_a_small_screen(fake: FakeService, board: Page, width: int) -> None:
    board.set_viewport_size({"width": width, "height": 640})
    for opener, place in (
        (".hone-options summary", ".hone-menu"),
        ("[data-adapter=v2] [data-lever=canary]", ".hone-dialog"),
    ):
        board.locator(opener).click()
        expect(board.locator(place)).to_be_visible()
        box = board.locator(place).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
        board.keyboard.press("Escape")


@pytest.mark.parametrize(("width", "rows"), [(320, 2), (390, 2), (700, 1), (1000, 2), (1280, 1)])
def test_no_number_of_the_feedback_is_alone_in_a_row(board: Page, width: int, rows: int) -> None:
    board.set_viewport_size({"width": width, "height": 800})
    expect(board.locator(".hone-numbers div")).to_have_count(4)
    tops = board.locator(".hone-numbers div").evaluate_all("nodes => nodes.map(one => one.getBoundingClientRect().top)")
    assert sorted(map(tops.count, tops)) == [4 // rows] * 4


@pytest.mark.parametrize("width", [320, 360, 768])
def test_the_board_fits_on_a_small_screen(fake: FakeService, board: Page, width: int) -> None:
    message = "There is feedback, but it holds no corrections or pairs of a better and a worse reply to learn from."
    facts = {"parent": "v1", "adapter": "v2", "attempt": 3, "trigger": "count", "message": message}
    fake.runs = {
        name: fake_run(name, state, **facts)
        for name, state in (("run-1", "nothing_to_learn"), ("run-2", "rejected"), ("run-3", "running"))
    }
    metrics = {"loss": 1.0, "kl": -0.00012, "reward_accuracy": 1.0, "fluency": -12345.0}
    fake.metrics["run-3"] = [{"step": step, "phase": "dpo", **metrics} for step in range(1, 4)]
    board.locator("[data-adapter=v2] .hone-open").click()
    expect(board.locator(".hone-figures")).to_be_visible()
    expect(board.locator(".hone-chart")).to_have_count(4)
    board.set_viewport_size({"width": width, "height": 800})
    assert board.evaluate("document.documentElement.scrollWidth") <= width
    assert board.locator(".hone-runs, .hone-run, .hone-adapter, .hone-card, .hone-chart").evaluate_all(CUT) == []
    for apart in (".hone-chart", ".hone-figures tbody tr:first-child > *"):
        assert board.locator(apart).evaluate_all(OVERLAPPING) == []
