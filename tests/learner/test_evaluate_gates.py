"""Each gate lets a sound candidate through and stops the one it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from learner.evaluate.gates import verdict
from learner.evaluate.intervals import Share
from service.settings import LearnerSettings
from tests.learner.sound_reports import SOUND, by_scores

SETTINGS = LearnerSettings()


def test_a_sound_candidate_passes_every_gate() -> None:
    outcome = verdict(SOUND, SETTINGS)
    assert outcome.passed
    assert outcome.reasons == ()
    assert len(outcome.gates) == 16


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"empty_share": 0.01}, "no empty replies"),
        ({"fluency": -0.26}, "fluent"),
        ({"kl_per_token": 1.01}, "near the anchor"),
        ({"unfinished_share": 0.2}, "replies end"),
        ({"distinct_2": 0.1}, "varied"),
        ({"commonest_share": 0.7}, "varied"),
        ({"agreement": 0.3, "agreement_lost_low": 0.2}, "keeps its answers"),
        (
            {"neighbours_agreement": 0.3, "neighbours_agreement_base": 0.9, "neighbours_agreement_lost_low": 0.4},
            "spares other answers of their kind",
        ),
        ({"correction_log_prob": -12.0}, "keeps corrections"),
        ({"correction_log_prob": -12.0, "correction_log_prob_before": -11.0}, "keeps corrections"),
        ({"taught_new_log_prob": -12.0}, "learns its corrections"),
        ({"taught_forgotten": 5}, "forgets no corrections"),
        ({"pair_accuracy": 0.2}, "agrees with people"),
        ({"label_accuracy": 0.2}, "agrees with thumbs"),
        ({"score_accuracy": by_scores(0.2, 40)}, "agrees with scores"),
        ({"judge_accuracy": 0.3}, "judged as people do"),
        ({"share_won": Share(0.3, 0.2, 0.4, 500, 0)}, "no worse than its parent"),
        ({"not_finite": 1}, "finite"),
        ({"prompts": 1, "replies": 4}, "measured"),
    ],
)
def test_one_fault_is_one_reason(change: dict[str, object], gate: str) -> None:
    outcome = verdict(replace(SOUND, **change), SETTINGS)  # type: ignore[arg-type]  # names are checked by replace
    assert [one.name for one in outcome.gates if not one.passed] == [gate]
    assert len(outcome.reasons) == 1


def test_a_figure_that_is_no_number_does_not_pass() -> None:
    for name in ("fluency", "kl_per_token", "empty_share", "distinct_2"):
        broken = replace(SOUND, **{name: float("nan")})  # type: ignore[arg-type]  # as above
        assert not verdict(broken, SETTINGS).passed, name


def test_chance_is_allowed_for_against_the_parent_but_not_for_a_clear_loss() -> None:
    assert verdict(replace(SOUND, share_won=Share(0.45, 0.3, 0.6, 60, 0)), SETTINGS).passed
    assert not verdict(replace(SOUND, share_won=Share(0.45, 0.42, 0.48, 6000, 0)), SETTINGS).passed


def test_what_was_not_measured_is_not_judged() -> None:
    bare = replace(
        SOUND, share_won=None, judge_accuracy=None, pairs=0, pair_prompts=0, taught=0, taught_new=0,
        taught_new_log_prob=None, agreement=None, agreement_base=None,
        correction_log_prob=None, label_accuracy=None, labels=0, label_prompts=0, score_accuracy=None, scores=None,
    )  # fmt: skip
    outcome = verdict(bare, SETTINGS)
    assert outcome.passed
    needing = "no worse than its parent", "keeps its answers", "keeps corrections", "learns its corrections"
    assert {gate.name for gate in outcome.gates}.isdisjoint(("forgets no corrections", *needing))
    assert {gate.name for gate in outcome.gates}.isdisjoint(("agrees with people", "judged as people do"))
    assert {gate.name for gate in outcome.gates}.isdisjoint(("agrees with thumbs", "agrees with scores"))


def test_too_few_scores_to_tell_are_said_to_be_too_few_and_refuse_nothing() -> None:
    for few in (by_scores(0.0, 5), Share(None, None, None, 0, 0)):
        outcome = verdict(replace(SOUND, score_accuracy=few, scores=30), SETTINGS)
        (gate,) = (gate for gate in outcome.gates if gate.name == "agrees with scores")
        assert outcome.passed and gate.passed
        assert "Not judged by scores: 30 held-out scores" in gate.reason and "(at least 6)" in gate.reason
    assert not verdict(replace(SOUND, score_accuracy=by_scores(0.0, 6)), SETTINGS).passed


def test_scores_against_it_count_by_pairs_of_prompts_and_its_parent_is_told_beside() -> None:
    assert verdict(replace(SOUND, score_accuracy=by_scores(0.4, 20)), SETTINGS).passed
    against = replace(SOUND, score_accuracy=by_scores(0.4, 400), score_accuracy_parent=0.75)
    (reason,) = verdict(against, SETTINGS).reasons
    assert "40.0% of the cases; allowing for chance at most 44.9% (limit 50.0%); its parent: 75.0%." in reason


def test_corrections_are_not_refused_by_a_judge_that_people_contradict() -> None:
    corrected = replace(SOUND, pair_accuracy=None, judge_accuracy=0.2, share_won=Share(0.3, 0.2, 0.4, 500, 0))
    outcome = verdict(corrected, SETTINGS)
    assert outcome.passed
    silent = {"no worse than its parent", "judged as people do", "agrees with people"}
    assert silent.isdisjoint(gate.name for gate in outcome.gates)
    assert not verdict(replace(corrected, judge_accuracy=0.8), SETTINGS).passed


def test_few_judgements_against_it_may_be_chance() -> None:
    assert verdict(replace(SOUND, pair_accuracy=0.0, judge_accuracy=0.0, pairs=30, pair_prompts=5), SETTINGS).passed
    assert not verdict(replace(SOUND, pair_accuracy=0.0, pairs=6, pair_prompts=6), SETTINGS).passed
    assert verdict(replace(SOUND, pair_accuracy=0.4, pairs=400, pair_prompts=20), SETTINGS).passed
    assert not verdict(replace(SOUND, pair_accuracy=0.4, pairs=400, pair_prompts=400), SETTINGS).passed
    assert verdict(replace(SOUND, label_accuracy=0.0, label_prompts=5), SETTINGS).passed
    assert not verdict(replace(SOUND, label_accuracy=0.0, label_prompts=6), SETTINGS).passed


def test_one_correction_of_few_may_be_forgotten_and_a_tenth_of_many() -> None:
    few, many = replace(SOUND, taught=4, taught_new=1), SOUND  # 3 and 40 that were known
    assert verdict(replace(few, taught_forgotten=1), SETTINGS).passed
    assert not verdict(replace(few, taught_forgotten=2), SETTINGS).passed
    assert verdict(replace(many, taught_forgotten=4), SETTINGS).passed


def test_a_base_that_says_one_thing_to_most_may_be_followed() -> None:
    assert verdict(replace(SOUND, commonest_share=0.8, commonest_share_base=0.85), SETTINGS).passed


def test_what_every_run_loses_a_little_of_is_held_against_the_base() -> None:
    drifted = replace(SOUND, correction_log_prob=-9.4, correction_log_prob_before=-9.2)
    assert not verdict(drifted, SETTINGS).passed
    assert verdict(replace(drifted, correction_log_prob_base=-9.3), SETTINGS).passed


def test_reasons_say_what_was_measured_and_the_limit() -> None:
    (reason,) = verdict(replace(SOUND, fluency=-0.5), SETTINGS).reasons
    assert "-0.500" in reason
    assert "-0.250" in reason


def test_the_limit_of_replies_that_do_not_end_is_told_beside_the_base() -> None:
    outcome = verdict(replace(SOUND, unfinished_share=0.22, unfinished_share_base=0.18), SETTINGS)
    (reason,) = (gate.reason for gate in outcome.gates if gate.name == "replies end")
    assert outcome.passed and reason == "22.0% of the replies do not end (base 18.0%, limit 23.0%)."
