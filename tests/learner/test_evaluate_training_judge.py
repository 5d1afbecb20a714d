"""How far to trust the judge that a candidate learned from, and that no trouble of the judge's loses the candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from learner.backbone import Backbone
from learner.batch import Demonstration, Pair, Snapshot, unheard
from learner.constitution.asking import Request
from learner.constitution.judging import HeardOdds, Judge, Two
from learner.curate import Curated
from learner.evaluate import constitution as evaluation
from learner.evaluate import training_judge
from learner.evaluate.constitution import ConstitutionEvaluation, by_constitution
from learner.evaluate.intervals import wilson
from learner.evaluate.training_judge import MOST_FAILED, MOST_PAIRS, Asked, judge_figures
from service.constitution import built_in
from service.constitution.versions import built_in_version
from service.errors import TrainingFailed
from service.settings import ConstitutionSettings, Settings
from tests.learner.constitution.toy import Scale
from tests.learner.progress import Heard

OURS = built_in()
ELSEWHERE = ConstitutionSettings(judge="http://ann:secret@127.0.0.1:1/v1", judge_model="large", judge_retries=0)


class NoBackbone:
    """Of a judge elsewhere nothing is asked of it."""

    def has(self, role: str) -> bool:
        return False

    def add_judge(self, *about: object) -> None:
        raise TrainingFailed("v3 is not there.")


BACKBONE = cast(Backbone, NoBackbone())


def settings(tmp_path: Path, how: ConstitutionSettings = ELSEWHERE) -> Settings:
    return Settings(home=tmp_path, constitution=how)


def two(a: str, b: str) -> Two:
    return Two((("user", "Tell me more."),), a, b)


def groups(people: int, others: int) -> list[Asked]:
    """People prefer the long reply three times of four, and the others are as long."""
    judged = [two("no", "much more") if place % 4 == 0 else two("much more", "no") for place in range(people)]
    same = [two("yes", "yes")] * others
    return [Asked(same, OURS.tagged(("helpful",))), Asked(judged, OURS.principles, of_people=True)]


def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Judge, asked: Sequence[Asked]) -> dict[str, Any]:
    monkeypatch.setattr(training_judge, "judge_of", lambda *about: judge)
    return judge_figures(settings(tmp_path), BACKBONE, OURS, asked, seed=7)


def test_its_agreement_with_people_and_its_lean_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Scale(lambda reply: len(reply) / 20, lean=0.1)
    assert measured(tmp_path, monkeypatch, judge, groups(8, 4)) == {
        "name": "http://127.0.0.1:1/v1",  # without the password
        "model": "large",
        "judged_as_people": 0.75,
        "judged_as_people_low": pytest.approx(wilson(0.75, 1)[0]),  # all were replies to one question
        "judged_as_people_high": pytest.approx(wilson(0.75, 1)[1]),
        "peoples_pairs": 8,
        "position_bias": pytest.approx(0.1),
        "pairs": 12,
        "questions": 24,
        "failed": 0,
        "trouble": None,
    }


def test_peoples_pairs_come_first_and_it_is_asked_about_so_many_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Scale(len)
    found = measured(tmp_path, monkeypatch, judge, groups(64, 200))
    assert (found["peoples_pairs"], found["pairs"], len(judge.asked)) == (64, MOST_PAIRS, 2 * MOST_PAIRS)


def test_without_peoples_pairs_its_lean_is_told_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path, monkeypatch, Scale(lambda reply: 0, lean=-0.2), groups(0, 4))
    assert found["judged_as_people"] is None and found["position_bias"] == pytest.approx(-0.2)


def test_verdicts_that_came_to_nothing_are_counted_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(tmp_path, monkeypatch, Scale(lambda reply: None if reply == "yes" else len(reply)), groups(8, 4))
    assert (found["judged_as_people"], found["pairs"], found["questions"], found["failed"]) == (0.75, 8, 24, 8)
    assert found["trouble"] is None


def test_a_judge_that_answers_no_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Scale(lambda reply: None if reply == "yes" else len(reply))
    found = measured(tmp_path, monkeypatch, judge, groups(8, 80))
    assert found["failed"] == MOST_FAILED and found["questions"] == len(judge.asked) == 16 + MOST_FAILED
    assert found["judged_as_people"] == 0.75 and "asked no more" in found["trouble"]


def test_an_endpoint_that_nobody_reaches_is_told_of_and_loses_nothing(tmp_path: Path) -> None:
    found = judge_figures(settings(tmp_path), BACKBONE, OURS, groups(40, 4), seed=7)
    assert found["judged_as_people"] is None and found["position_bias"] is None and found["pairs"] == 0
    assert found["failed"] == found["questions"] <= 2 * 40
    assert "http://127.0.0.1:1/v1 gave no verdict" in found["trouble"] and "secret" not in str(found)


def test_an_adapter_that_is_gone_is_told_of_and_loses_nothing(tmp_path: Path) -> None:
    found = judge_figures(settings(tmp_path, ConstitutionSettings(judge="v3")), BACKBONE, OURS, groups(4, 4), seed=7)
    assert (found["name"], found["model"], found["trouble"]) == ("v3", "", "v3 is not there.")
    assert found["questions"] == found["failed"] == 0


AI_FEEDBACK = Snapshot(ai_pairs=(Pair((1, 2), (4, 3), (5, 3)),))
REVISIONS = Snapshot(revised=(Demonstration((1, 2), (4, 3)),))


@pytest.mark.parametrize(
    ("train", "judge", "is_measured"),
    [
        (AI_FEEDBACK, ELSEWHERE.judge, True),
        (AI_FEEDBACK, "v3", True),
        (AI_FEEDBACK, "self", False),
        (REVISIONS, ELSEWHERE.judge, False),
        (Snapshot(), ELSEWHERE.judge, False),
    ],
)
def test_it_is_measured_where_the_candidate_learned_from_another_judge_than_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Snapshot, judge: str, is_measured: bool
) -> None:
    class Tokenizer:
        chat_template = "any"

    backbone = cast(Any, NoBackbone())
    backbone.tokenizer = Tokenizer()
    monkeypatch.setattr(evaluation, "BackboneJudge", lambda *about: Scale(len))
    monkeypatch.setattr(ConstitutionEvaluation, "report", lambda self, held_out: {"judged_as_people": 0.9})
    monkeypatch.setattr(training_judge, "judge_of", lambda *about: Scale(len))
    lessons = replace(Curated(train, Snapshot(), {}), constitution=built_in_version())
    how, heard = ELSEWHERE.model_copy(update={"judge": judge}), Heard()
    found = by_constitution(backbone, settings(tmp_path, how), lessons, heard)
    assert found is not None and found["judged_as_people"] == 0.9  # the base's
    assert ("judge" in found) is is_measured
    assert [stage for stage, *_ in heard.steps] == ["verdicts of the judge that it learned from"] * is_measured


class Refuses:
    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        raise TrainingFailed("It refuses.")


def test_a_judge_that_refuses_is_told_of_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path, monkeypatch, Refuses(), groups(4, 0))
    assert (found["trouble"], found["questions"], found["failed"]) == ("It refuses.", 8, 8)
