"""The operators' page: what is live and why, the levers, and what is drawn again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
import pytest

from service.adapters.manifest import Probe
from service.adapters.proof import judge
from tests.learner.sound_reports import SOUND_CONSTITUTION
from tests.ui.calling import using
from tests.ui.fake_api_objects import OPERATOR, fake_adapter, fake_constitution, fake_run
from tests.ui.fake_service import FakeService
from tests.ui.pressing import T, event, request
from ui.board import Board, _since_when
from ui.constitution import ConstitutionDesk
from ui.operator import OperatorPage


def on_board(api_url: str, act: Callable[[OperatorPage], Awaitable[T]]) -> T:
    return using(api_url, lambda client: act(OperatorPage(client)))


def look(api_url: str, board: Board, session: str | None = OPERATOR) -> tuple[Any, ...]:
    return on_board(api_url, lambda page: page.look(board, request(session)))


def look_at_desk(api_url: str, board: Board) -> dict[str, Any]:
    return using(api_url, lambda client: ConstitutionDesk(client).look(board, request(OPERATOR)))


@pytest.fixture
def adapters(fake: FakeService) -> FakeService:
    fake.adapters["v1"] = fake_adapter("v1", "live", created_at="2026-11-01T00:00:00Z")
    report = {"share_won": {"value": 0.7, "low": 0.6, "high": 0.8}, "gates": [{"name": "fluent", "passed": True}]}
    fake.adapters["v2"] = fake_adapter("v2", "candidate", report=report, created_at="2026-11-02T00:00:00Z")
    fake.serving.update(live="v1", previous="base")
    return fake


def test_the_proof_that_an_adapter_is_served_is_told_in_plain_words(adapters: FakeService, api_url: str) -> None:
    probe = Probe(prompt_token_ids=(1,), token_ids=(2,), logprobs=(-1.0,), base_logprobs=(-3.0,))
    proof = judge((probe,), [[-1.0]], [[-3.0]], {}, tolerance=0.05).words
    adapters.adapters["v1"]["reason"] = f"It passed every gate. {proof} On all 3 engines."
    top, _, _, shown = look(api_url, Board())
    said = "It passed every gate. The engine serves it as it was trained. On all 3 engines."
    assert "KL" in proof and (top["why"], shown["adapters"][1]["reason"]) == (said, said)


def test_an_operator_sees_what_is_live_and_why(adapters: FakeService, api_url: str) -> None:
    top, runs, _, shown = look(api_url, Board())
    assert top["serving"]["live"] == "v1" and top["why"] == "Is live now." and top["since"]
    assert runs["runs"] == () and not runs["hidden"]
    assert [adapter["name"] for adapter in shown["adapters"]] == ["v2", "v1"]
    assert shown["adapters"][0]["figures"][0]["value"] == "70.0\u00a0%"
    _, _, _, shown = look(api_url, Board(opened={"v2"}))  # the list has no gates: they are shown with the whole report
    assert shown["adapters"][0]["figures"][0]["value"] == "70.0\u00a0%" and shown["adapters"][0]["gates"][0]["passed"]


@pytest.mark.parametrize("session", ["anna", None])
def test_a_user_sees_the_refusal_and_nothing_else(adapters: FakeService, api_url: str, session: str | None) -> None:
    top, runs, charts, shown = look(api_url, Board(), session)
    assert "Operators only" in top["refused"] and not top["serving"] and not top["stats"]
    assert runs["hidden"] and not runs["runs"] and shown["hidden"] and not shown["adapters"]
    assert charts["hidden"] and not charts["charts"]


@pytest.mark.parametrize(
    ("lever", "data"),
    [
        ("learn", {"method": "auto"}),
        ("cancel_run", {"run": "run-1"}),
        ("promote", {"adapter": "v2"}),
        ("canary", {"adapter": "v2", "share": 0.5}),
        ("end_canary", None),
        ("rollback", {"to": "base"}),
        ("reject", {"adapter": "v2"}),
    ],
)
def test_no_lever_moves_for_a_user(
    adapters: FakeService, api_url: str, lever: str, data: dict[str, Any] | None
) -> None:
    board = Board()
    arguments = [board, request("anna")] if data is None else [board, event(**data), request("anna")]
    on_board(api_url, lambda page: getattr(page, lever)(*arguments))
    assert not adapters.acted and board.tone == "error" and "Operators only" in board.notice


def test_levers_carry_what_was_filled_in(adapters: FakeService, api_url: str) -> None:
    board = Board()

    async def pull(page: OperatorPage) -> None:
        await page.canary(board, event(adapter="v2", share=0.25, reason=" A quarter. "), request(OPERATOR))
        await page.end_canary(board, request(OPERATOR))
        await page.promote(board, event(adapter="v2", reason="Good."), request(OPERATOR))
        await page.rollback(board, event(to="", reason="Worse."), request(OPERATOR))
        await page.reject(board, event(adapter="v2", reason="Bad."), request(OPERATOR))
        await page.learn(board, event(method="dpo", promote=False), request(OPERATOR))
        await page.learn(board, event(method="auto", promote=None), request(OPERATOR))
        await page.learn(board, event(method="", promote=None), request(OPERATOR))
        await page.cancel_run(board, event(run="run-1"), request(OPERATOR))

    on_board(api_url, pull)
    assert adapters.acted == [
        ("canary", {"name": "v2", "share": 0.25, "reason": "A quarter."}),
        ("end_canary", {}),
        ("promote", {"name": "v2", "reason": "Good."}),
        ("rollback", {"to": None, "reason": "Worse."}),
        ("reject", {"name": "v2", "reason": "Bad."}),
        ("learn", {"method": "dpo", "promote": False}),
        ("learn", {"method": "auto"}),
        ("learn", {}),
        ("cancel", {"name": "run-1"}),
    ]


@pytest.mark.parametrize("name", ["../runs", "v2/canary", "", None, 3, "v2?x"])
def test_a_name_that_is_none_goes_nowhere(adapters: FakeService, api_url: str, name: Any) -> None:
    board = Board()
    on_board(api_url, lambda page: page.promote(board, event(adapter=name), request(OPERATOR)))
    assert board.tone == "error" and "no adapter unknown" in board.notice
    assert adapters.serving["live"] == "v1"


def test_only_what_changed_is_drawn_again(adapters: FakeService, api_url: str) -> None:
    board = Board()
    skipped = gr.skip()
    look(api_url, board)
    assert all(part == skipped for part in look(api_url, board))
    adapters.adapters["v2"]["state"] = "rejected"
    top, runs, curves, shown = look(api_url, board)
    assert top == runs == curves == skipped and shown["adapters"][0]["state"] == "rejected"


def test_a_look_that_was_overtaken_by_a_later_one_is_not_drawn() -> None:
    board = Board()
    assert not board.overtaken(2) and board.overtaken(1) and not board.overtaken(3)


def test_the_board_of_a_restarted_server_is_drawn_over_the_one_before(adapters: FakeService, api_url: str) -> None:
    before = Board()

    def reject(board: Board, name: str) -> Any:
        return on_board(api_url, lambda page: page.reject(board, event(adapter=name), request(OPERATOR)))[0]

    for name in ("v2", "v1", "v2"):
        view = reject(before, name)
    again = reject(Board(), "v2")
    assert again["version"] > view["version"] and again["notice"]["serial"] > view["notice"]["serial"]


def test_the_run_under_way_is_shown_until_another_is_chosen(fake: FakeService, api_url: str) -> None:
    fake.runs = {"run-1": fake_run("run-1", "succeeded"), "run-2": fake_run("run-2", "running")}
    fake.metrics = {"run-1": [{"step": 1, "phase": "sft", "loss": 2.0}], "run-2": []}
    board = Board()
    _, runs, curves, _ = look(api_url, board)
    assert runs["run"] == "run-2" and curves["charts"] == []
    _, runs, curves, _ = on_board(api_url, lambda page: page.choose_run(board, event(run="run-1"), request(OPERATOR)))
    assert runs["run"] == "run-1" and [chart["name"] for chart in curves["charts"]] == ["loss"]


def test_a_run_says_what_of_its_phase_is_under_way(fake: FakeService, api_url: str) -> None:
    told = ("train", "train: kto", "train: critiques, round 1 of 2", "waiting for the engine")
    fake.runs = {
        f"run-{number}": fake_run(f"run-{number}", "running", phase=phase) for number, phase in enumerate(told)
    }
    _, runs, _, _ = look(api_url, Board())
    assert {run["id"]: (run["phase"], run["stage"]) for run in runs["runs"]} == {
        "run-0": ("train", ""),
        "run-1": ("train", "thumbs (KTO)"),
        "run-2": ("train", "critiques, round 1 of 2"),
        "run-3": ("waiting for the engine", ""),
    }


def test_an_opened_adapter_shows_its_history(adapters: FakeService, api_url: str) -> None:
    board = Board()
    assert look(api_url, board)[3]["adapters"][0]["history"] == []
    *_, shown = on_board(api_url, lambda page: page.open_adapter(board, event(adapter="v2"), request(OPERATOR)))
    assert shown["adapters"][0]["open"] and shown["adapters"][0]["history"]
    *_, shown = on_board(api_url, lambda page: page.open_adapter(board, event(adapter="v2"), request(OPERATOR)))
    assert not shown["adapters"][0]["open"]


def test_a_service_that_is_away_is_said_and_looked_for_again() -> None:
    board = Board()
    top, runs, _, _ = look("http://127.0.0.1:9", board)
    assert "can't be reached" in top["away"] and runs["hidden"]


def test_what_went_live_again_is_live_since_the_last_time() -> None:
    times = ["2026-01-01T10:00:00Z", "2026-01-03T10:00:00Z", "2026-01-02T10:00:00Z"]
    history = [{"action": "live", "at": at} for at in times] + [{"action": "requested", "at": "2026-01-09T10:00:00Z"}]
    assert _since_when({"history": history}) == times[1]
    assert _since_when({"history": []}) is None and _since_when(None) is None


def test_the_constitution_s_part_of_a_report_is_shown(adapters: FakeService, api_url: str) -> None:
    adapters.adapters["v2"].update(parent="v1", report={"constitution": SOUND_CONSTITUTION})
    *_, shown = look(api_url, Board(opened={"v2"}))
    part = shown["adapters"][0]["by_constitution"]
    assert part["sides"] == ["v2", "v1", "base"] and part["compared"] and part["frontier"]
    assert shown["adapters"][1]["by_constitution"] is None


def test_that_the_constitution_can_not_be_used_leaves_the_rest_of_the_board(
    adapters: FakeService, api_url: str
) -> None:
    board = Board()
    assert look_at_desk(api_url, board)["problem"] == look(api_url, board)[1]["unusable"] == ""
    adapters.unusable = "The constitution c1 has format 9; this Hone knows 1."
    adapters.constitutions.insert(0, fake_constitution("c1", "format_version = 9"))
    assert look_at_desk(api_url, board)["problem"] == adapters.unusable
    _, runs, _, _ = look(api_url, board)
    assert runs["unusable"] == adapters.unusable and not runs["hidden"]
    adapters.unusable = ""
    look_at_desk(api_url, board)
    assert look(api_url, board)[1]["unusable"] == ""


def test_the_constitution_is_read_when_another_one_is_in_effect_and_when_it_is_opened(
    adapters: FakeService, api_url: str
) -> None:
    board, reads = Board(), []
    for _ in range(3):
        look(api_url, board)
        assert look_at_desk(api_url, board)["current"]["name"] == "c0"
        reads.append(adapters.constitutions_read)
    adapters.constitution = fake_constitution("c1", "[[principles]]")
    adapters.constitutions.insert(0, adapters.constitution)
    for _ in range(2):
        assert look_at_desk(api_url, board)["current"]["text"] == "[[principles]]"
        reads.append(adapters.constitutions_read)
    using(api_url, lambda client: ConstitutionDesk(client).look_anew(board, request(OPERATOR)))
    assert [*reads, adapters.constitutions_read] == [1, 1, 1, 2, 2, 3]
