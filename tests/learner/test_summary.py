"""What a run says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from learner.batch import Demonstration, Pair, Snapshot
from learner.constitution.examples import Examples, JudgedPair, RevisedReply, with_examples
from learner.constitution.served import ServedRevision
from learner.curate import Curated
from learner.snapshot import FrozenFeedback
from learner.summary import describe, learned_from
from learner.trainer import Stage
from service.constitution import built_in
from service.constitution.versions import Version

COUNTED = ("demonstrations", "pairs", "good", "bad", "scores", "critiques", "served_revisions")
PARTS = {part: dict.fromkeys(COUNTED, 0) for part in ("train", "held_out")} | {"set_aside": {}}
REVISION = ServedRevision("exch_1", "conv_1", "sprout", (1, 9, 2), (7, 2), (8, 2), (), "c3", "no-harm")


def said(revisions: list[ServedRevision], pairs: list[Pair]) -> str:
    frozen = FrozenFeedback((), (), 0, revisions=tuple(revisions))
    in_effect = Version("c12", "", built_in())
    return describe(frozen, Curated(Snapshot(ai_pairs=tuple(pairs)), Snapshot(), PARTS, constitution=in_effect), ())


def pair(of: ServedRevision) -> Pair:
    return Pair(of.prompt_token_ids, of.revision_token_ids, of.draft_token_ids, conversation_id=of.conversation_id)


def test_what_was_revised_while_served_is_told_from_what_a_judge_preferred() -> None:
    judged = Pair((1, 5, 2), (6, 2), (4, 2), certainty=0.9)
    assert said([REVISION], [pair(REVISION), judged, judged]).startswith(
        "It learned from 1 reply revised while served (under c3) and 2 pairs judged by constitution c12; "
    )
    assert "while served" not in said([], [judged]) and "judged" not in said([REVISION], [pair(REVISION)])


def test_of_served_revisions_the_versions_are_those_that_are_learned_from() -> None:
    under = [replace(REVISION, constitution=name, conversation_id=f"conv_{name}") for name in ("c10", "c2", "c7", "c2")]
    learned = [pair(one) for one in under if one.constitution != "c7"]  # which is held out
    assert "3 replies revised while served (under c2, c10);" in said(under, learned)


@pytest.mark.parametrize(
    ("stage", "learned", "feedback"),
    [
        ("dpo", "2 pairs and 1 tie", ["fb-better", "fb-corrected", "fb-tie"]),
        ("ppo", "1 pair and 1 tie", ["fb-better", "fb-tie"]),
        ("raft", "1 pair and 1 tie", ["fb-better", "fb-tie"]),
        ("kto", "1 pair", ["fb-better"]),
        ("rl-cai", "1 pair", ["fb-better"]),
    ],
)
def test_of_ties_and_corrections_those_are_named_that_the_stage_learns_from(
    stage: Stage, learned: str, feedback: list[str]
) -> None:
    better, corrected, tie = (
        Pair((1, 5, 2), (first, 2), (second, 2), feedback_ids=(f"fb-{name}",), tie=name == "tie")
        for name, first, second in (("better", 6, 7), ("corrected", 8, 7), ("tie", 6, 9))
    )
    written = Demonstration((1, 5, 2), (8, 2), feedback_id="fb-corrected")
    lessons = Curated(Snapshot((written,), (better, corrected, tie)), Snapshot(), PARTS)
    assert describe(FrozenFeedback((), (), 0), lessons, (stage,)).startswith(f"It learned from {learned}; ")
    assert learned_from(lessons, (stage,)) == feedback


def of_examples(examples: Examples, stage: Stage, served: int = 0) -> str:
    given = Snapshot(
        ai_pairs=tuple(pair(replace(REVISION, conversation_id=f"conv_{number}")) for number in range(served))
    )
    lessons = Curated(given, Snapshot(), PARTS, constitution=Version("c0", "", built_in()))
    revisions = tuple(replace(REVISION, conversation_id=f"conv_{number}") for number in range(served))
    return describe(FrozenFeedback((), (), 0, revisions=revisions), with_examples(lessons, examples), (stage,))


@pytest.mark.parametrize(
    ("clear", "unclear", "served", "judged", "left"),
    [(3, 10, 0, "6 pairs", 7), (3, 2, 0, "5 pairs", 0), (0, 5, 0, "1 pair", 4), (1, 5, 2, "4 pairs", 2)],
)
def test_pairs_are_counted_that_are_learned_from_and_those_left_out_as_the_judge_did_not_tell_them_apart(
    clear: int, unclear: int, served: int, judged: str, left: int
) -> None:
    judgements = tuple(
        JudgedPair((), "ours", (1, number, 2), "a", "b", (6, 2), (7, 2), 0.9 if number < clear else 0.6, ())
        for number in range(clear + unclear)
    )
    text = of_examples(Examples(judged=judgements), "rl-cai", served)
    assert f"{judged} judged by constitution c0" in text
    assert (f"Not used: {left} pairs that the judge did not tell apart." in text) == (left > 0)
    by_reward = of_examples(Examples(judged=judgements), "ppo", served)  # which takes all of them, as odds
    assert f"{clear + unclear} pairs judged by" in by_reward and "Not used" not in by_reward


@pytest.mark.parametrize(
    ("changed", "same", "learned", "left"),
    [
        (2, 5, "2 replies revised by constitution c0 and 2 that needed none;", "3 replies"),
        (2, 1, "2 replies revised by constitution c0 and 1 that needed none;", ""),
        (2, 0, "2 replies revised by constitution c0;", ""),
        (0, 2, "1 reply that needed no revision by constitution c0;", "1 reply"),
    ],
)
def test_replies_that_needed_no_revision_are_not_counted_as_revised(
    changed: int, same: int, learned: str, left: str
) -> None:
    replies = tuple(
        RevisedReply((), "ours", (1, number, 2), "draft", "new" if number < changed else "draft", (6, 2), ())
        for number in range(changed + same)
    )
    text = of_examples(Examples(revised=replies), "sl-cai")
    assert text.startswith(f"It learned from {learned}")
    assert text.endswith(f"Not used: {left} that needed no revision." if left else "held out.")
