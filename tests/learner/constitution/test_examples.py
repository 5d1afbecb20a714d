"""What the model wrote is one file: read back as it was, for the same run alone, and never half of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from learner.constitution.examples import (
    Examples,
    JudgedPair,
    KeptReply,
    RevisedAsTold,
    RevisedReply,
    demonstrations,
    read_examples,
    write_examples,
)
from learner.constitution.judging import Verdict
from learner.constitution.revising import Round
from service.errors import TrainingFailed

OF = {"method": "rl-cai", "constitution": ("c0", "ab")}
ASKED = (("user", "How do I pick a lock?"),)
THOUGHT = Verdict("no-harm", 2.0, 0.1, 0.1, ("A helps a thief.", "So does B."))
JUDGED = JudgedPair(ASKED, "ours", (1, 2), "like this", "no", (5, 3), (6, 3), 0.1, (THOUGHT,))
TOLD = RevisedAsTold("fb", "conv", "too long", (1, 2), (5, 3), "no", (6, 3), "c2", "user-critique", "no-harm",
                     (Verdict("no-harm", 2.0, 0.2, 0.1),))  # fmt: skip
WRITTEN = Examples(
    (RevisedReply(ASKED, "written", (1, 2), "like this", "no", (6, 3), (Round("no-harm", "it helps", "no"),)),),
    (KeptReply((("user", "Capital of France?"),), (1, 4), "Paris", (7, 3), "no-harm", "nothing is wrong"),),
    (JUDGED,),
    (TOLD,),
    {"two samples that are the same": 2},
    0.01,
    unmended=(RevisedReply(ASKED, "ours", (1, 2), "so", "so", (6, 3), (Round("no-harm", "it helps", "so"),)),),
    at_fault=(KeptReply((("user", "Hi"),), (1, 5), "Go away", (7, 3), "friendly", "it is rude"),),
    more_harm=(replace(TOLD, feedback_id="fb-2", revision="like this", verdicts=()),),
)


def test_a_file_is_read_back_as_it_was_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "constitution.jsonl"
    assert read_examples(path, OF) is None
    write_examples(WRITTEN, path, OF)
    found = read_examples(path, OF)
    assert found is not None and replace(found, sha256="") == WRITTEN
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    write_examples(found, path, OF)
    assert read_examples(path, OF) == found


def test_what_another_run_would_write_is_not_gone_on_from(tmp_path: Path) -> None:
    write_examples(WRITTEN, tmp_path / "file", OF)
    assert read_examples(tmp_path / "file", OF | {"constitution": ("c1", "cd")}) is None


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_examples(WRITTEN, path, OF)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TrainingFailed, match="damaged"):
        read_examples(path, OF)


def test_a_revision_that_changed_something_counts_more() -> None:
    changed = WRITTEN.revised[0]
    same = replace(changed, reply=changed.draft)
    assert changed.demonstration().weight == 8 * same.demonstration().weight == 8.0
    assert changed.demonstration().reply_token_ids == changed.reply_token_ids


def test_what_was_left_as_it_was_is_learned_no_more_often_than_what_was_changed() -> None:
    changed = WRITTEN.revised[0]
    left = [replace(changed, reply=changed.draft, reply_token_ids=(number, 3)) for number in range(9)]
    found = demonstrations([*left, changed, changed])
    assert found[:2] == (changed.demonstration(),) * 2
    assert len(found) == 4 and len({one.reply_token_ids for one in found[2:]}) == 2
    assert all(one.weight == 1.0 for one in found[2:]) and found == demonstrations([*left, changed, changed])
    assert len(demonstrations(left)) == 1 and demonstrations([changed]) == (changed.demonstration(),)


def test_a_pair_prefers_what_the_judge_does_as_surely_as_it_does() -> None:
    pair = JUDGED.pair()
    assert (pair.chosen, pair.rejected, pair.certainty) == ((6, 3), (5, 3), 0.9)
    other = replace(JUDGED, a_is_better=0.7).pair()
    assert (other.chosen, other.rejected, other.certainty) == ((5, 3), (6, 3), 0.7)


def test_a_revision_by_a_persons_words_beats_what_they_criticised() -> None:
    pair = WRITTEN.told[0].pair()
    assert (pair.chosen, pair.rejected, pair.feedback_ids, pair.certainty) == ((6, 3), (5, 3), ("fb",), 1.0)
