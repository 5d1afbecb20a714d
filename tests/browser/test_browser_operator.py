"""The operator's page in a browser, over a fake service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.operating import CUT, live, pull
from tests.learner.sound_reports import SOUND_CONSTITUTION
from tests.ui.fake_api_objects import fake_adapter, fake_run, now
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


@pytest.fixture
def fake(fake: FakeService) -> FakeService:
    """With an adapter that is live and one that waits."""
    fake.adapters["v1"] = fake_adapter("v1", "live", created_at="2026-11-01T00:00:00Z", reason="Won 71 %.")
    fake.adapters["v2"] = fake_adapter("v2", "candidate", created_at="2026-11-02T00:00:00Z", parent="v1", report=REPORT)
    fake.serving.update(live="v1", previous="base")
    return fake


@pytest.fixture
def board(running: tuple[str, FakeService], fake: FakeService, open_page: OpenPage) -> Page:
    """Opened with the operator link."""
    return open_page(f"{running[0]}/operator?key=right")


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


def test_learn_now_shows_a_run_that_moves_by_itself(fake: FakeService, board: Page) -> None:
    board.get_by_role("button", name="Learn now").click()
    run = board.locator("[data-run=run-1]")
    expect(run).to_have_attribute("data-state", "running")
    fake.runs["run-1"].update(step=5)
    fake.metrics["run-1"] += [{"step": step, "phase": "dpo", "loss": 1 / step} for step in range(1, 6)]
    expect(run.locator(".hone-steps")).to_have_text("5 / 20")
    expect(run.locator("li.now")).to_have_text("train preferences (DPO)")
    expect(board.locator("[data-metric=loss] polyline")).to_be_visible()
    expect(board.get_by_role("img", name="Loss: from 1 at step 1 to 0.2 at step 5")).to_be_visible()
    fake.runs["run-1"].update(state="succeeded", finished_at=now(), message="v3 passed every gate.")
    expect(run).to_have_attribute("data-state", "succeeded")
    expect(run).to_contain_text("v3 passed every gate.")


def test_a_run_that_waits_says_for_what(fake: FakeService, board: Page) -> None:
    fake.runs["run-1"] = fake_run("run-1", "running", phase="waiting for the engine")
    expect(board.locator("[data-run=run-1] li.now")).to_have_text("waiting for the engine")


def test_curves_of_an_earlier_run_can_be_looked_at(fake: FakeService, board: Page) -> None:
    fake.runs = {"run-1": fake_run("run-1", "succeeded"), "run-2": fake_run("run-2", "rejected")}
    fake.metrics = {
        name: [{"step": 1, "phase": "dpo", metric: 1.0}] for name, metric in (("run-1", "kl"), ("run-2", "loss"))
    }
    expect(board.locator("[data-metric=loss]")).to_be_visible()
    board.get_by_role("button", name="run-1").click()
    expect(board.locator("[data-metric=kl]")).to_be_visible()
    expect(board.locator("[data-metric=loss]")).to_have_count(0)


def test_the_clock_of_a_run_ticks_between_its_steps(fake: FakeService, board: Page) -> None:
    fake.runs["run-1"] = fake_run("run-1", "running", started_at=(datetime.now(UTC) - timedelta(minutes=5)).isoformat())
    clock = board.get_by_role("timer")
    expect(clock).to_contain_text("5 min")
    seen = clock.inner_text()
    expect(clock).not_to_have_text(seen)
    fake.runs["run-1"].update(state="failed", finished_at=now())
    expect(clock).to_have_count(0)


def test_earlier_runs_are_listed_when_they_are_asked_for(fake: FakeService, board: Page) -> None:
    fake.runs = {f"run-{number}": fake_run(f"run-{number}", "succeeded") for number in range(1, 9)}
    expect(board.locator(".hone-run")).to_have_count(5)
    board.get_by_role("button", name="Show 3 earlier runs").click()
    expect(board.locator(".hone-run")).to_have_count(8)
    expect(board.get_by_role("button", name="earlier")).to_have_count(0)


def test_a_step_of_a_curve_can_be_read_off(fake: FakeService, board: Page) -> None:
    fake.runs["run-1"] = fake_run("run-1", "succeeded")
    fake.metrics["run-1"] = [{"step": step, "phase": "sft", "loss": 10.0 - step} for step in range(1, 10)]
    chart = board.locator("[data-metric=loss]")
    expect(chart.locator("figcaption")).to_contain_text("1")
    chart.locator("svg").hover()
    expect(chart.locator("figcaption")).to_contain_text("step 5: 5")


def test_the_options_of_a_run_are_named_and_close_again(fake: FakeService, board: Page) -> None:
    board.get_by_text("Options").click()
    board.get_by_label("Learn from").select_option(label="Preferences only (DPO)")
    board.get_by_label("Afterwards").select_option(label="Keep as a candidate")
    board.keyboard.press("Escape")
    expect(board.get_by_label("Learn from")).to_be_hidden()
    board.get_by_role("button", name="Learn now").click()
    expect(board.locator(".hone-run")).to_contain_text("preferences only")
    assert fake.acted == [("learn", {"method": "dpo", "promote": False})]


def test_a_stage_of_the_constitution_is_run_like_any_other_method(fake: FakeService, board: Page) -> None:
    board.get_by_text("Options").click()
    board.get_by_label("Learn from").select_option(label="1st stage: its own revisions (SL-CAI)")
    expect(board.locator(".hone-menu")).to_contain_text("learns its own revisions")
    board.get_by_role("button", name="Learn now").click()
    expect(board.locator(".hone-run")).to_contain_text("constitution: own revisions")
    assert fake.acted == [("learn", {"method": "sl-cai"})]


def test_no_stage_of_a_constitution_that_can_not_be_used_is_offered(fake: FakeService, board: Page) -> None:
    board.get_by_text("Options").click()
    stage = board.locator("option[value=rl-cai]")
    expect(stage).to_be_enabled()
    board.get_by_label("Learn from").select_option("rl-cai")
    fake.unusable = "The constitution c1 has format 9."
    expect(stage).to_be_disabled()
    expect(board.get_by_label("Learn from")).to_have_value("")
    expect(board.locator(".hone-menu")).to_contain_text("can't be run. The constitution c1 has format 9.")
    fake.unusable = ""
    expect(stage).to_be_enabled()
    expect(board.locator(".hone-menu p")).to_be_hidden()


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
    expect(part.get_by_role("img", name="v2: 98 % harmless, 49 % preferred to the base")).to_be_visible()
    expect(part.locator("circle")).to_have_count(3)
    board.set_viewport_size({"width": 320, "height": 800})
    assert board.evaluate("document.documentElement.scrollWidth") <= 320
    assert part.locator("tbody tr:first-child > *").evaluate_all(OVERLAPPING) == []


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
