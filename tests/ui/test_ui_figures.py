from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from learner.evaluate.gates import RULES, verdict
from learner.evaluate.intervals import Share
from learner.evaluate.report import Report
from service.settings import LearnerSettings
from tests.learner.sound_reports import SOUND_CONSTITUTION
from ui.curves import CHARTS, curves, metric_names
from ui.figures import figures, gates


def lines(phase: str, count: int, **metrics: float) -> list[dict[str, object]]:
    return [{"step": step, "steps": count, "phase": phase, **metrics} for step in range(1, count + 1)]


def test_the_telling_metrics_come_first_and_counters_are_none() -> None:
    metrics = lines("dpo", 2, zeta=1.0, loss=0.5, kl=0.1, seconds=3.0)
    assert metric_names(metrics) == ["loss", "kl", "zeta"]
    assert len(metric_names([{"step": 1, **{f"m{n}": n for n in range(20)}}])) == CHARTS


def test_there_is_no_chart_without_numbers() -> None:
    assert curves([]) == []
    assert curves([{"step": 1, "phase": "sft", "note": "hello", "done": True, "loss": None}]) == []
    assert curves([{"phase": "sft", "loss": 1.0}]) == []


def test_phases_follow_one_another_on_one_axis() -> None:
    charts = curves(lines("sft", 3, loss=2.0, kl=0.1) + lines("dpo", 2, loss=1.0))
    drawn = [(chart["name"], line["phase"], line["points"]) for chart in charts for line in chart["lines"]]
    assert drawn == [
        ("loss", "sft", [(1, 2.0), (2, 2.0), (3, 2.0)]),
        ("loss", "dpo", [(4, 1.0), (5, 1.0)]),
        ("kl", "sft", [(1, 0.1), (2, 0.1), (3, 0.1)]),
    ]


def test_a_chart_says_what_it_shows_and_an_unknown_one_its_name() -> None:
    loss, unknown = curves(lines("dpo", 1, loss=2.0, new_metric=1.0))
    assert "the steps lower" in loss["meaning"] and loss["lines"][0]["label"] == "preferences (DPO)"
    assert (unknown["label"], unknown["meaning"]) == ("New metric", "")


def test_each_phase_of_a_run_has_a_name() -> None:
    (chart,) = curves([line for phase in ("sft", "dpo", "kto", "sft again") for line in lines(phase, 1, loss=1.0)])
    said = [line["label"] for line in chart["lines"]]
    assert said == ["corrections (SFT)", "preferences (DPO)", "thumbs (KTO)", "corrections once more"]


def test_a_report_reads_as_names_and_numbers() -> None:
    report = {
        "fluency": -0.0812,
        "share_won": {"value": 0.714, "low": 0.62, "high": 0.79, "decided": 98, "ties": 3},
        "mean_length": 8.25,
        "mean_length_base": 14.2,
        "new_metric": 3,
        "samples": [{"prompt": "x"}],
        "agreement": None,
        "gates": [],
        "attempt": 1,
    }
    found = {figure["name"]: figure for figure in figures(report)}
    assert list(found) == ["share_won", "fluency", "mean_length", "new_metric"]
    assert (found["share_won"]["value"], found["share_won"]["interval"]) == ("71.4\u00a0%", "62.0 to 79.0\u00a0%")
    assert found["fluency"]["value"] == "-0.081"
    assert (found["mean_length"]["value"], found["mean_length"]["base"]) == ("8.25", "14.2")
    assert found["new_metric"]["label"] == "New metric"


def test_what_a_training_came_to_stands_beside_what_was_measured_of_it() -> None:
    stages = {
        "sft": {"steps": 9, "worst_correction": -0.1},
        "ppo": {"steps": 80, "reward_gained": 1.25, "reward_accuracy": 0.75, "reward_disagreement": None, "kl": 3.0},
    }
    found = figures({"training": {"skipped_steps": 0, "remarks": [], "stages": stages}, "fluency": -0.1})
    assert [(one["name"], one["value"]) for one in found] == [
        ("fluency", "-0.100"), ("reward_gained", "+1.250"), ("reward_accuracy", "75.0\u00a0%"),
    ]  # fmt: skip
    assert all(one["meaning"] for one in found)
    assert figures({"training": {"skipped_steps": 0, "remarks": []}}) == figures({"training": None}) == []


@pytest.mark.parametrize("share", [None, {"value": None, "low": None, "high": None}])
def test_a_share_that_was_not_decided_is_left_out(share: object) -> None:
    assert figures({"share_won": share}) == []


def test_a_share_won_by_a_judge_that_nothing_checked_says_so() -> None:
    share = {"value": 0.7, "low": 0.6, "high": 0.8}
    (unchecked,), (checked, _) = figures({"share_won": share}), figures({"share_won": share, "pairs": 9})
    assert "no judgement of people was kept back" in unchecked["meaning"]
    assert "care" not in checked["meaning"]


def test_gates_keep_their_reasons() -> None:
    report = {"gates": [{"name": "fluent", "passed": False, "reason": "Too odd."}, "garbage"]}
    (gate,) = gates(report)
    assert (gate["name"], gate["passed"], gate["reason"]) == ("fluent", False, "Too odd.")
    assert gates({}) == []


def test_whatever_the_learner_measures_and_rules_on_is_explained_in_plain_words() -> None:
    share = Share(0.7, 0.6, 0.8, decided=90, ties=2)
    report = Report(192, 48, share, share, judge_accuracy=0.8, pair_accuracy=0.7, pairs=12, pair_prompts=9)
    report = replace(report, agreement=0.7, agreement_base=0.6, agreement_lost_low=-0.2)
    report = replace(report, neighbours=9, neighbours_agreement=0.7, neighbours_agreement_base=0.7)
    report = replace(report, neighbours_agreement_lost_low=-0.1)
    report = replace(report, correction_log_prob=-9.0, correction_log_prob_before=-12.0, corrections=3)
    report = replace(report, correction_log_prob_base=-12.0)
    report = replace(report, taught=5, taught_known=4, taught_new=3)
    report = replace(report, taught_new_log_prob=-0.3, taught_new_log_prob_before=-9.0)
    report = replace(report, label_accuracy=0.7, labels=20, label_prompts=9)
    report = replace(report, score_accuracy=share, score_accuracy_parent=0.6, scores=20)
    report = replace(report, constitution=SOUND_CONSTITUTION)
    by_people = replace(report, constitution=SOUND_CONSTITUTION | {"trained_by_it": False})
    held = {gate.name: gate for made in (report, by_people) for gate in verdict(made, LearnerSettings()).gates}
    shown = figures({**report.to_json(), "seconds": 12.5})
    ruled = gates({"gates": [asdict(gate) for gate in held.values()]})
    assert len(ruled) == len(RULES)
    for one in [*shown, *ruled]:
        assert one["meaning"] and one["label"] != one["name"], one["name"]


def test_the_kl_of_ppo_is_said_to_be_that_of_a_reply() -> None:
    (chart,) = curves(lines("ppo", 1, kl=0.1))
    assert chart["meaning"].endswith("in nats per token; PPO's is per reply.")
