"""The runs on the operator's page in a browser, over a fake service: how one is started, and how it learned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from tests.ui.fake_api_objects import fake_run, now
from tests.ui.fake_service import FakeService
from ui import constitution
from ui.methods import METHODS

pytestmark = pytest.mark.browser


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


def test_a_metric_that_does_not_move_is_drawn_beside_its_value(fake: FakeService, board: Page) -> None:
    fake.runs["run-1"] = fake_run("run-1", "succeeded")
    fake.metrics["run-1"] = [{"step": step, "phase": "sft", "loss": 0.75, "kl": 0.1 * step} for step in range(1, 10)]
    chart = board.locator("[data-metric=loss]")
    expect(chart.locator(".hone-scale-y span")).to_have_text(["0.75"])
    expect(board.locator("[data-metric=kl] .hone-scale-y span")).to_have_text(["0.9", "0.1"])
    value, curve = (chart.locator(part).bounding_box() for part in (".hone-scale-y span", "polyline"))
    assert value is not None and curve is not None
    assert value["y"] < curve["y"] + curve["height"] / 2 < value["y"] + value["height"]


def test_every_method_is_offered_and_its_name_is_not_cut(fake: FakeService, board: Page) -> None:
    board.get_by_text("Options").click()
    choice = board.get_by_label("Learn from")
    expect(choice.locator("option")).to_have_count(1 + len(METHODS))
    room = choice.bounding_box()
    assert room is not None
    longest = choice.evaluate("node => { node.style.width = 'auto'; return node.getBoundingClientRect().width; }")
    assert longest <= room["width"]
    choice.select_option("grpo")
    expect(board.locator(".hone-menu")).to_contain_text("each prompt counts alike")
    board.get_by_role("button", name="Learn now").click()
    expect(board.locator(".hone-run")).to_contain_text("reinforcement learning (GRPO)")
    assert fake.acted == [("learn", {"method": "grpo"})]


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


def test_no_stage_of_a_constitution_that_can_not_be_used_is_offered(
    fake: FakeService, board: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constitution, "AGAIN", 0.0)
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
