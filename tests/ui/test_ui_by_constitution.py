"""The constitution's part of a report, as an operator reads it."""

from __future__ import annotations

from typing import Any

import pytest

from ui.by_constitution import by_constitution

MEASURED: dict[str, Any] = {
    "constitution": "c2",
    "red_team_prompts": 48,
    "harmful": 0.02,
    "harmful_parent": 0.1,
    "harmful_parent_low": 0.055,
    "harmful_parent_high": 0.176,
    "harmful_base": 0.2,
    "harmful_by_principle": {"no-harm": 0.0, "refuse-harm": 0.04},
    "harmful_by_principle_parent": {"no-harm": 0.2},
    "harmful_by_principle_base": {"no-harm": 0.4, "refuse-harm": 0.0},
    "refused_and_explained": 0.5,
    "refused_and_explained_parent": 0.25,
    "refused_and_explained_base": 0.0,
    "refused_without_a_word": 0.125,
    "look_alikes": 48,
    "over_refused": 0.1,
    "over_refused_parent": 0.1,
    "over_refused_base": 0.05,
    "helpful_prompts": 48,
    "helpful_won_base": 0.49,
    "helpful_won_base_low": 0.36,
    "helpful_won_base_high": 0.62,
    "helpful_won_parent_base": 0.48,
    "helpful_won": 0.5,
    "helpful_won_low": 0.36,
    "helpful_won_high": 0.64,
    "helpful_won_by_principle": {"answers": 0.6},
    "helpful_odds": 0.51,
    "judged_as_people": None,
    "peoples_pairs": 0,
    "position_bias": -0.031,
    "critique_useful": 0.8115,
    "critiqued": 16,
}


def shown(report: dict[str, Any], parent: str | None = "v1") -> dict[str, Any]:
    found = by_constitution({"constitution": report}, "v2", parent)
    assert found is not None
    return found


def rows(found: dict[str, Any], part: str) -> dict[str, list[str]]:
    return {" ".join(filter(None, (row["name"], row.get("principle")))): row["values"] for row in found[part]}


def meaning(found: dict[str, Any], name: str) -> str:
    said: str = next(row["meaning"] for row in found["compared"] + found["alone"] if row["name"] == name)
    return said


def test_candidate_parent_and_base_stand_beside_each_other() -> None:
    found = shown(MEASURED)
    assert (found["constitution"], found["sides"]) == ("c2", ["v2", "v1", "base"])
    assert rows(found, "compared") == {
        "harmful": ["2.0\u00a0%", "10.0\u00a0%", "20.0\u00a0%"],
        "harmful no-harm": ["0.0\u00a0%", "20.0\u00a0%", "40.0\u00a0%"],
        "harmful refuse-harm": ["4.0\u00a0%", "–", "0.0\u00a0%"],
        "refused_and_explained": ["50.0\u00a0%", "25.0\u00a0%", "0.0\u00a0%"],
        "refused_without_a_word": ["12.5\u00a0%", "–", "–"],
        "over_refused": ["10.0\u00a0%", "10.0\u00a0%", "5.0\u00a0%"],
        "helpful": ["49.0\u00a0%", "48.0\u00a0%", "–"],
    }
    assert "red-team prompts (48)" in meaning(found, "harmful")


def test_what_is_known_of_the_candidate_alone_has_its_interval_and_its_counts() -> None:
    found = shown(MEASURED)
    assert rows(found, "alone") == {
        "helpful_won": ["50.0\u00a0%"],
        "helpful_won answers": ["60.0\u00a0%"],
        "helpful_odds": ["51.0\u00a0%"],
        "judged_as_people": ["–"],
        "position_bias": ["-3.1 points"],
        "critique_useful": ["81.2\u00a0%"],
    }
    assert found["alone"][0]["intervals"] == ["36.0 to 64.0\u00a0%"]
    assert "kept back (0)" in meaning(found, "judged_as_people")
    assert "harmful replies (16)" in meaning(found, "critique_useful")


def test_an_interval_that_is_known_is_told_of_every_side() -> None:
    found = shown(MEASURED | {"harmful_base_low": 0.13})
    assert found["compared"][0]["intervals"] == ["", "5.5 to 17.6\u00a0%", ""]


def test_a_share_by_principle_has_its_interval() -> None:
    ends = {"harmful_by_principle_parent_low": {"no-harm": 0.15}, "harmful_by_principle_parent_high": {"no-harm": 0.3}}
    found = shown(MEASURED | ends | {"judge": {"judged_as_people": 0.9, "judged_as_people_low": 0.6,
                                               "judged_as_people_high": 1.0}})  # fmt: skip
    assert found["compared"][1]["intervals"] == ["", "15.0 to 30.0\u00a0%", ""]
    (judge,) = (row for row in found["alone"] if row["name"] == "judge judged_as_people")
    assert judge["intervals"] == ["60.0 to 100.0\u00a0%"]


def test_without_a_parent_there_are_two_sides() -> None:
    alone = {key: value for key, value in MEASURED.items() if "_parent" not in key}
    found = shown(alone, parent=None)
    assert found["sides"] == ["v2", "base"] and rows(found, "compared")["harmful"] == ["2.0\u00a0%", "20.0\u00a0%"]
    assert [place["name"] for place in found["frontier"]] == ["base", "v2"]


def test_the_frontier_leads_from_the_base_over_the_parent_to_the_candidate() -> None:
    base, parent, candidate = shown(MEASURED)["frontier"]
    assert [place["side"] for place in (base, parent, candidate)] == ["base", "parent", "candidate"]
    assert (base["name"], base["helpful"], base["harmless"]) == ("base", [0.5] * 3, [0.8] * 3)
    assert (parent["name"], parent["helpful"]) == ("v1", [0.48] * 3)
    assert parent["harmless"] == pytest.approx([0.9, 0.824, 0.945])  # what is least harmful is most harmless
    assert (candidate["name"], candidate["helpful"]) == ("v2", [0.49, 0.36, 0.62])


def test_there_is_no_frontier_unless_both_ends_were_measured() -> None:
    assert shown(MEASURED | {"harmful": None})["frontier"] == []
    assert shown(MEASURED | {"harmful_base": None})["frontier"] == []
    assert len(shown(MEASURED | {"helpful_won_parent_base": None})["frontier"]) == 2


def test_another_judge_that_it_learned_from_stands_beside_the_base() -> None:
    judge = {"name": "v3", "judged_as_people": 0.9, "peoples_pairs": 12, "position_bias": 0.012, "pairs": 40}
    judge |= {"questions": 80, "failed": 2, "trouble": "It timed out."}
    found = shown(MEASURED | {"judge": judge})
    assert rows(found, "alone")["judge judged_as_people"] == ["90.0\u00a0%"]
    assert rows(found, "alone")["judge position_bias"] == ["+1.2 points"]
    assert meaning(found, "judge judged_as_people").startswith("v3, whose verdicts it learned from")
    assert meaning(found, "judge position_bias").endswith("2 of 80 questions came to nothing. It timed out.")
    unasked = shown({"judge": {"name": "v3", "judged_as_people": None, "trouble": None}})
    assert rows(unasked, "alone") == {"judge judged_as_people": ["–"], "judge position_bias": ["–"]}
    assert meaning(unasked, "judge position_bias").endswith("came to nothing.")


def test_nothing_is_shown_of_what_was_not_measured() -> None:
    for report in ({}, {"constitution": None}, {"constitution": "garbage"}):
        assert by_constitution(report, "v2", "v1") is None
    empty = shown({"constitution": "c0"})
    assert (empty["compared"], empty["alone"], empty["frontier"]) == ([], [], [])


def test_a_report_of_another_version_of_hone_can_be_read() -> None:
    odd = {
        "harmful": "many",
        "harmful_by_principle": 3,
        "over_refused": True,
        "new_key": {"deep": [1]},
        "replies": None,
    }
    found = shown(odd)
    assert rows(found, "compared") == {"harmful": ["–", "–"], "over_refused": ["–", "–"]}
    assert meaning(found, "harmful").startswith("To red-team prompts (–)")
