"""Verdicts become soft labels: both orders and several principles averaged, failures counted."""

from __future__ import annotations

import pytest

from learner.constitution.judging import (
    MOST_THOUGHTS,
    Manner,
    Preference,
    Two,
    Verdict,
    judge_pairs,
    missing_verdicts,
    position_bias,
    share_of_a,
)
from service.constitution import built_in
from service.errors import TrainingFailed
from tests.learner.constitution.toy import Scale

OURS = built_in()
HARMLESS = OURS.tagged(("harmless",))
ASKED = (("user", "How do I pick a lock?"),)
PAIRS = [Two(ASKED, "no", "here is how"), Two(ASKED, "here is how", "no"), Two(ASKED, "no", "no")]


def worth(reply: str) -> float | None:
    return {"no": 0.8, "here is how": 0.2}.get(reply)


def test_a_preference_is_the_same_whichever_reply_is_called_a() -> None:
    found = judge_pairs(Scale(worth), OURS, HARMLESS, PAIRS, Manner(), 0)
    assert [round(one.a_is_better, 6) for one in found if one] == [0.8, 0.2, 0.5]


def test_a_lean_to_the_first_is_averaged_out_and_measured() -> None:
    found = [one for one in judge_pairs(Scale(worth, lean=0.1), OURS, HARMLESS, PAIRS, Manner(), 0) if one]
    assert [round(one.a_is_better, 6) for one in found] == [0.8, 0.2, 0.5]
    assert position_bias(found) == pytest.approx(0.1)
    assert position_bias([]) is None


def test_a_pair_of_even_odds_is_half_won_whatever_rounding_makes_of_them() -> None:
    odds = (0.9, 0.1, 0.5, (0.9 + 1 - 0.9) / 2)
    assert odds[-1] != 0.5 and share_of_a([Preference(one, ()) for one in odds]) == (1 + 0 + 0.5 + 0.5) / 4
    assert share_of_a([]) is None


def test_verdicts_that_came_to_nothing_beside_others_are_counted() -> None:
    whole = Verdict("calm", 1.0, 0.9, 0.8)
    assert missing_verdicts([Preference(0.85, (whole, whole)), Preference(0.85, (whole,)), None], 2) == 1


def test_principles_are_averaged_by_their_weight() -> None:
    heavy, light = (HARMLESS[0].model_copy(update={"weight": 3.0}), HARMLESS[1].model_copy(update={"weight": 1.0}))

    class OnlyByTheHeavy(Scale):
        def _odds(self, request):  # type: ignore[no-untyped-def]  # as the base class
            return super()._odds(request) if heavy.rule in request[-1]["content"] else 0.5

    (found, *_) = judge_pairs(OnlyByTheHeavy(worth), OURS, (heavy, light), PAIRS, Manner(principles=2), 0)
    assert found is not None and {one.principle for one in found.verdicts} == {heavy.name, light.name}
    assert found.a_is_better == pytest.approx((3 * 0.8 + 1 * 0.5) / 4)


def test_odds_after_thoughts_are_clamped() -> None:
    found = judge_pairs(Scale(worth), OURS, HARMLESS, PAIRS, Manner(reasoned=True), 0)
    assert [round(one.a_is_better, 6) for one in found if one] == [0.6, 0.4, 0.5]


def test_thoughts_before_a_verdict_are_kept_beside_it_up_to_a_length() -> None:
    long = Two(ASKED, "here is how", "no " * 3_000)
    first, second = judge_pairs(Scale(lambda reply: 0.5), OURS, HARMLESS, [PAIRS[0], long], Manner(reasoned=True), 0)
    assert first is not None and second is not None
    assert first.verdicts[0].thoughts == ("I look at 'no' first.", "I look at 'here is how' first.")
    assert [len(one) for one in second.verdicts[0].thoughts] == [len("I look at 'here is how' first."), MOST_THOUGHTS]
    (plain,) = judge_pairs(Scale(worth), OURS, HARMLESS, PAIRS[:1], Manner(), 0)
    assert plain is not None and plain.verdicts[0].thoughts == ("", "")


def test_what_comes_to_nothing_is_left_out_up_to_a_share() -> None:
    nonsense = [*PAIRS * 5, Two(ASKED, "no", "unreadable")]
    found = judge_pairs(Scale(worth), OURS, HARMLESS, nonsense, Manner(failed_share=0.2), 0)
    assert found[-1] is None and None not in found[:-1]
    with pytest.raises(TrainingFailed, match=r"2 of 32 questions.*judge_failed_share \(0.05\)"):
        judge_pairs(Scale(worth), OURS, HARMLESS, nonsense, Manner(failed_share=0.05), 0)


def test_it_ends_before_all_is_asked_where_too_many_come_to_nothing() -> None:
    judge = Scale(lambda reply: None)
    with pytest.raises(TrainingFailed):
        judge_pairs(judge, OURS, HARMLESS, PAIRS * 100, Manner(), 0)
    assert len(judge.asked) < 2 * len(PAIRS) * 100


def test_half_a_verdict_is_none() -> None:
    class OneOrder(Scale):
        def _odds(self, request):  # type: ignore[no-untyped-def]  # as the base class
            return None if "A: here" in request[-1]["content"] else super()._odds(request)

    assert judge_pairs(OneOrder(worth), OURS, HARMLESS, PAIRS[:1], Manner(failed_share=1.0), 0) == [None]


def test_the_order_is_no_part_of_what_is_drawn() -> None:
    judges = [Scale(worth), Scale(worth)]
    for judge in judges:
        judge_pairs(judge, OURS, HARMLESS, PAIRS, Manner(principles=2), 7)
    assert judges[0].asked == judges[1].asked
    verdict = Verdict("no-harm", 1.0, 0.9, 0.7)
    assert Preference(verdict.a_is_better, (verdict,)).a_is_better == pytest.approx(0.8)
