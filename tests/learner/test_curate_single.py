"""Thumbs and scores that stand alone: what they say of a reply, how many count, and which are held out."""

from __future__ import annotations

import pytest

from learner.called import DISAGREEMENT, MOST_HELD_TOGETHER, SAID_AGAIN, TOO_MANY_REPLIES
from learner.curate import ON_BOTH_SIDES, OVER_CAP, Curated, _fraction
from learner.summary import learned_from
from learner.trainer import stages_of
from learner.votes import CUT_OFF
from service.store.queries import feedback
from service.wire import Score, Thumb
from tests.learner.curating import curated, thumb
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


def test_a_single_score_counts_from_what_its_person_usually_gives(home: Home) -> None:
    """A strict and a generous person who like the same say the same."""
    for caller, usual in (("name:strict", 3), ("name:kind", 8)):
        for number in range(20):
            prompt = (1, 20 + number, 2)
            score = usual + (2 if number % 2 else -2)
            home.judge(
                Score(exchange_id=home.chat(f"{'a' * number}b", prompt=prompt, caller=caller), score=score), caller
            )
    found = curated(home, held_out_share=1e-9)
    assert not found.train.pairs and found.counts["train"]["scores"] == len(found.train.scored) == 20
    for scored in found.train.scored:
        is_good = scored.prompt_token_ids[1] % 2 == 1
        assert len(scored.feedback_ids) == 2 and scored.points == pytest.approx(2 if is_good else -2, abs=0.1)
    assert stages_of("auto", found.train) == () and stages_of("auto", found.train, "ppo") == ("ppo",)
    assert learned_from(found, ("dpo",)) == [] and len(learned_from(found, ("raft",))) == 40


def test_scores_are_held_out_by_conversation_and_measured_or_learned_not_both(home: Home) -> None:
    for number in range(60):
        home.judge(Score(exchange_id=home.chat(f"{'a' * number}b", prompt=(1, 20 + number, 2)), score=1 + number % 10))
    found = curated(home)
    assert 0 < len(found.held_out.scored) < 30 and len(found.train.scored) + len(found.held_out.scored) == 60
    held = next(name for name in (f"conv_held_{n}" for n in range(100)) if _fraction(name) < 0.2)
    taught = next(name for name in (f"conv_taught_{n}" for n in range(100)) if _fraction(name) >= 0.2)
    for caller, conversation in (("name:bob", held), ("name:eve", taught)):
        exchange = home.chat("ccc", caller=caller, conversation=conversation, prompt=(1, 9, 2))
        home.judge(Score(exchange_id=exchange, score=9), caller)
    assert curated(home).counts["set_aside"] == {ON_BOTH_SIDES: 1}
    assert curated(home, max_length=3).train.scored == ()


def test_a_reply_is_called_what_most_people_call_it_and_weighs_by_how_far_they_agree(home: Home) -> None:
    callers = ("name:ann", "name:bob", "name:cid", "name:dan")
    names = [thumb(home, "a", caller != "name:bob", caller) for caller in callers]
    thumb(home, "bb", False, prompt=(1, 9, 2))
    split, alone = curated(home).train.labels
    assert (split.desirable, split.weight, split.feedback_ids) == (True, 0.5, tuple(names))
    assert (alone.desirable, alone.weight) == (False, 1.0)
    assert curated(home).counts["train"]["good"] == curated(home).counts["train"]["bad"] == 1


def test_a_person_has_one_thumb_on_a_reply_the_newest(home: Home) -> None:
    for good in (True, True, False):
        newest = thumb(home, "a", good)
    (label,) = curated(home).train.labels
    assert (label.desirable, label.feedback_ids) == (False, (newest,))
    assert curated(home).counts["set_aside"] == {SAID_AGAIN: 2}
    thumb(home, "a", True, "name:bob")
    assert not curated(home).train.labels
    assert curated(home).counts["set_aside"] == {SAID_AGAIN: 2, DISAGREEMENT: 2}


def test_a_thumb_that_a_comparison_contradicts_teaches_nothing(home: Home) -> None:
    home.compare("a", "bb", "a")
    thumb(home, "bb", True)
    assert not curated(home).train.labels
    assert curated(home).counts["set_aside"] == {DISAGREEMENT: 1}
    thumb(home, "bb", False)
    (label,) = curated(home).train.labels
    assert not label.desirable


def test_single_thumbs_are_capped_by_person_prompt_run_and_length(home: Home) -> None:
    for number in range(12):
        thumb(home, "a " * (number + 1), True, caller="name:loud")

    def found(**limits: object) -> Curated:
        return curated(home, held_out_share=0.0001, **limits)  # type: ignore[arg-type]  # one is no setting

    assert len(found(max_per_person=3).train.labels) == 3
    assert found(max_per_person=3).counts["set_aside"] == {OVER_CAP: 9}
    assert found().counts["set_aside"] == {TOO_MANY_REPLIES: 12 - MOST_HELD_TOGETHER}
    newest = [len(label.reply_token_ids) for label in found(max_examples=4).train.labels]
    assert len(newest) == 4 and newest[-2:] == [12, 13]
    assert max(label.length for label in found(max_length=12).train.labels) == 12


def test_single_thumbs_are_held_out_by_conversation_and_those_of_both_sides_are_neither(home: Home) -> None:
    for number in range(10):
        thumb(home, "a", True, prompt=(1, 50 + number, 2))
    held = next(name for name in (f"conv-{n}" for n in range(100)) if _fraction(name) < 0.2)
    free = next(name for name in (f"conv-{n}" for n in range(100)) if _fraction(name) >= 0.2)
    thumb(home, "a", False, prompt=(1, 90, 2), conversation=held)
    thumb(home, "a", False, prompt=(1, 91, 2), conversation=free)
    found = curated(home)
    assert [label.conversation_id for label in found.held_out.labels] == [held]
    assert len(found.train.labels) == 11 and found.counts["held_out"]["bad"] == 1
    thumb(home, "a", False, "name:bob", prompt=(1, 90, 2), conversation=free)
    found = curated(home)
    assert (len(found.train.labels), len(found.held_out.labels)) == (11, 0)
    assert found.counts["set_aside"] == {ON_BOTH_SIDES: 1}


def test_withdrawn_thumbs_are_no_labels(home: Home) -> None:
    name = thumb(home, "a", True)
    with home.store.begin() as tx:
        feedback.withdraw_feedback(tx, "name:ann", name)
    assert not curated(home).train.labels


def test_people_who_disagree_on_a_thumb_are_counted_as_such(home: Home) -> None:
    for caller, good in (("name:ann", True), ("name:bob", False)):
        home.judge(Thumb(exchange_id=home.chat("a", caller=caller), good=good), caller)
    assert curated(home).counts["set_aside"] == {DISAGREEMENT: 2}


def test_thumbs_and_scores_of_a_reply_that_was_cut_off_are_counted_not_lost(home: Home) -> None:
    home.judge(Thumb(exchange_id=home.chat("a", complete=False), good=True))
    home.judge(Score(exchange_id=home.chat("a", complete=False), score=3))
    found = curated(home)
    assert not found.train.pairs
    assert found.counts["set_aside"] == {CUT_OFF: 2}
