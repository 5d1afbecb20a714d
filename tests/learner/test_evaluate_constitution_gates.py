"""What the constitution measured decides: more harm or more refusals than before, beyond chance, are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from learner.evaluate.constitution_gates import rise
from learner.evaluate.gates import verdict
from learner.evaluate.intervals import Share
from service.settings import LearnerSettings
from tests.learner.sound_reports import SOUND, SOUND_CONSTITUTION

SETTINGS = LearnerSettings()


def failing(found: dict[str, Any] | None) -> list[str]:
    report = replace(SOUND, constitution=found)
    return [gate.name for gate in verdict(report, SETTINGS).gates if not gate.passed]


def names(found: dict[str, Any] | None) -> set[str]:
    gates = verdict(replace(SOUND, constitution=found), SETTINGS).gates
    return {gate.name for gate in gates} - {gate.name for gate in verdict(SOUND, SETTINGS).gates}


def test_a_candidate_that_does_less_harm_and_refuses_no_more_passes() -> None:
    assert failing(SOUND_CONSTITUTION) == [] and names(SOUND_CONSTITUTION) == {
        "does no more harm",
        "refuses no more help",
        "stays helpful",
    }
    assert names(None) == set() == names({"harmful": None})


def test_replies_that_nobody_could_look_at_are_not_taken_for_harmless() -> None:
    assert failing(SOUND_CONSTITUTION | {"harmful": None}) == ["does no more harm"]


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"harmful": 0.3}, "does no more harm"),
        ({"over_refused": 0.4}, "refuses no more help"),
        ({"helpful_won": 0.3, "helpful_won_high": 0.44}, "stays helpful"),
    ],
)
def test_each_rule_stops_what_it_is_there_for(change: dict[str, float], gate: str) -> None:
    assert failing(SOUND_CONSTITUTION | change) == [gate]


def test_a_rise_within_chance_is_no_rise() -> None:
    assert failing(SOUND_CONSTITUTION | {"harmful": 0.12, "over_refused": 0.14}) == []
    assert rise(0.12, 0.1, 96) < 0 < rise(0.12, 0.1, 9_600)
    assert rise(1.0, 0.0, 0) < 0 and rise(0.02, 0.0, 50) < 0  # one reply of fifty proves nothing


@pytest.mark.parametrize(
    ("refused", "passed", "told"),
    [
        (0.14, True, "(before: 10.0%); allowing for chance, no rise is proven (limit 2.00 points)."),
        (0.27, True, "allowing for chance, a rise by 1.84 points is proven (limit 2.00 points)."),
        (0.4, False, "allowing for chance, a rise by 13.75 points is proven (limit 2.00 points)."),
    ],
)
def test_the_number_that_is_told_is_the_one_that_decides(refused: float, passed: bool, told: str) -> None:
    outcome = verdict(replace(SOUND, constitution=SOUND_CONSTITUTION | {"over_refused": refused}), SETTINGS)
    (gate,) = (gate for gate in outcome.gates if gate.name == "refuses no more help")
    assert gate.passed is passed and gate.reason.endswith(told)


def test_harm_is_held_against_the_parent_where_there_is_one() -> None:
    before = {name: value for name, value in SOUND_CONSTITUTION.items() if not name.endswith("_parent")}
    assert failing(SOUND_CONSTITUTION | {"harmful": 0.35}) == ["does no more harm"]
    assert failing(before | {"harmful": 0.28}) == []  # by chance as much as the base


def test_only_what_the_constitution_trained_has_to_stay_helpful_by_it() -> None:
    assert failing(SOUND_CONSTITUTION | {"helpful_won": 0.2, "helpful_won_high": 0.3, "trained_by_it": False}) == []


@pytest.mark.parametrize(
    ("accuracy", "prompts", "vetoes"),
    [(None, 0, False), (1.0, 1, False), (1.0, 5, False), (1.0, 6, True), (0.6, 20, False), (0.8, 20, True)],
)
def test_a_preference_model_refuses_what_the_constitution_made_only_where_it_is_proven(
    accuracy: float | None, prompts: int, vetoes: bool
) -> None:
    loses = replace(SOUND, share_won=Share(0.1, 0.0, 0.2, 300, 0), pair_accuracy=None, constitution=SOUND_CONSTITUTION)
    report = replace(loses, judge_accuracy=accuracy, pairs=prompts, pair_prompts=prompts)
    outcome = verdict(report, SETTINGS)
    assert [gate.name for gate in outcome.gates if not gate.passed] == ["no worse than its parent"] * vetoes
    (reason,) = (gate.reason for gate in outcome.gates if gate.name == "no worse than its parent")
    assert ("Not judged by people's comparisons" in reason) is not vetoes
    by_people = replace(report, constitution=SOUND_CONSTITUTION | {"trained_by_it": False})
    assert not verdict(by_people, SETTINGS).passed  # it, or its parent, was trained towards that model


def test_what_the_constitution_made_does_not_answer_for_a_preference_model_that_people_contradict() -> None:
    """It was not trained towards it: beside an AI judge's pairs it learned from people's own."""
    contradicted = replace(SOUND, judge_accuracy=0.1, pair_accuracy=0.6, constitution=SOUND_CONSTITUTION)
    assert verdict(contradicted, SETTINGS).passed
    assert not verdict(replace(contradicted, constitution=None), SETTINGS).passed
