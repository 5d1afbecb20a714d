from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batch import Pair
from learner.consensus import OTHER_CORRECTION, OUTVOTED, TWICE
from learner.curate import (
    NO_PROMPT,
    ON_BOTH_SIDES,
    OTHER_BASE,
    OVER_CAP,
    TOO_LONG,
    Curated,
    _fraction,
    curate,
)
from learner.snapshot import FrozenFeedback, collect
from learner.summary import learned_from
from learner.trainer import LEAST_THUMBS, THUMBS_TO_A_PAIR, as_labels, judgements_of_taste, stages_of
from learner.votes import (
    BOTH_BAD,
    CUT_OFF,
    DISAGREEMENT,
    MOST_HELD_TOGETHER,
    SAID_AGAIN,
    SAME_REPLY,
    TOO_MANY_REPLIES,
)
from service.settings import LearnerSettings
from service.store.queries import feedback
from service.store.queries.exchanges import NewReply
from service.store.queries.revisions import NewRevision, add_revisions
from service.wire import Comparison, Correction, Critique, Label, Ranking, ReplyRef, Score, Thumb
from tests.learner.store_fixtures import PROMPT, Home, tokenize
from tests.learner.store_fixtures import home as home


def curated(home: Home, max_length: int | None = None, base: str | None = None, **settings: object) -> Curated:
    with home.store.read() as tx:
        frozen = collect(tx, feedback.last_position(tx), tokenize, base)
    return curate(frozen, LearnerSettings(**settings), max_length)


def preferences(found: Curated) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    return {(pair.chosen, pair.rejected) for pair in found.train.pairs if not pair.tie}


def test_a_correction_is_a_demonstration_and_beats_what_it_corrects(home: Home) -> None:
    name = home.correct("it is Lyon", "it is Paris then")
    found = curated(home)
    (demonstration,) = found.train.demonstrations
    assert demonstration.reply_token_ids == tokenize("it is Paris then")
    assert demonstration.feedback_id == name
    assert preferences(found) == {(tokenize("it is Paris then"), tokenize("it is Lyon"))}


def test_strength_gives_the_margin_and_a_tie_stays_a_tie(home: Home) -> None:
    for strength, words in ((1, "a"), (2, "a a"), (3, "a a a")):
        home.compare(words, "something else", "a", strength=strength)
    home.compare("b", "b b", "tie")
    pairs = curated(home).train.pairs
    assert sorted(pair.margin for pair in pairs if not pair.tie) == [0.5, 1.0, 1.5]
    assert sum(pair.tie for pair in pairs) == 1


def test_both_bad_makes_no_pair_and_is_counted(home: Home) -> None:
    home.compare("a", "bb", "both_bad")
    found = curated(home)
    assert not found.train.pairs
    assert found.counts["set_aside"] == {BOTH_BAD: 1}
    assert stages_of("auto", found.train) == ()


def test_a_ranking_gives_all_pairs_as_one_group(home: Home) -> None:
    exchange = home.chat("a", "bb bb", "ccc ccc ccc", "dddd dddd", "eeeee")
    refs = [ReplyRef(exchange_id=exchange, index=index) for index in range(5)]
    home.judge(Ranking(order=((refs[0],), (refs[1], refs[2])), failed=(refs[3], refs[4])))
    pairs = curated(home).train.pairs
    assert len(pairs) == 9  # C(5, 2) less the two failed ones against each other
    assert sum(pair.tie for pair in pairs) == 1
    assert len({pair.group for pair in pairs}) == 1 and pairs[0].group
    margins = {(pair.chosen, pair.rejected): pair.margin for pair in pairs}
    assert margins[tokenize("a"), tokenize("bb bb")] == 1
    assert margins[tokenize("a"), tokenize("eeeee")] == 2
    assert {pair.weight for pair in pairs} == {0.25}


def test_scores_pair_up_within_a_prompt_and_a_person(home: Home) -> None:
    for reply, score in (("a", 9), ("bb", 3)):
        home.judge(Score(exchange_id=home.chat(reply), score=score))
    other = home.chat("ccc", caller="name:bob")
    home.judge(Score(exchange_id=other, score=10), "name:bob")
    found = curated(home)
    assert preferences(found) == {(tokenize("a"), tokenize("bb"))}
    assert found.train.pairs[0].margin == 2
    assert found.counts["set_aside"] == {}
    (scored,) = found.train.scored  # what made a pair is used once
    assert (scored.prompt_token_ids, scored.reply_token_ids) == (PROMPT, tokenize("ccc"))
    assert scored.points == pytest.approx(10 - (10 + 2 * 5.5) / 3)  # so far that is all that is known of bob


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


def test_opposite_thumbs_on_one_prompt_pair_up_and_others_wait(home: Home) -> None:
    home.judge(Thumb(exchange_id=home.chat("a"), good=True))
    home.judge(Thumb(exchange_id=home.chat("bb", caller="name:bob"), good=False), "name:bob")
    home.judge(Thumb(exchange_id=home.chat("a", prompt=(1, 9, 2)), good=True))
    found = curated(home)
    assert preferences(found) == {(tokenize("a"), tokenize("bb"))}
    (label,) = found.train.labels  # what made a pair is used once
    assert (label.prompt_token_ids, label.reply_token_ids, label.desirable) == ((1, 9, 2), tokenize("a"), True)
    assert found.counts["set_aside"] == {}


def thumb(home: Home, reply: str, good: bool, caller: str = "name:ann", **chat: object) -> str:
    exchange = home.chat(reply, caller=caller, **chat)  # type: ignore[arg-type]
    return home.judge(Thumb(exchange_id=exchange, good=good), caller)


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


def test_many_replies_to_one_prompt_are_not_all_held_against_each_other(home: Home) -> None:
    for number in range(20):
        home.judge(Score(exchange_id=home.chat("a " * (number + 1), conversation="one"), score=1 + number % 10))
    for _ in range(5):
        home.judge(Score(exchange_id=home.chat("a " * 20, conversation="one"), score=10))
    pairs = curated(home).train.pairs
    assert len(pairs) <= MOST_HELD_TOGETHER * (MOST_HELD_TOGETHER - 1) / 2
    assert len(pairs) > MOST_HELD_TOGETHER
    assert curated(home).counts["set_aside"] == {TOO_MANY_REPLIES: 20 - MOST_HELD_TOGETHER, SAID_AGAIN: 5}


def test_many_thumbs_on_one_prompt_are_not_all_held_against_each_other(home: Home) -> None:
    for number in range(40):
        home.judge(Thumb(exchange_id=home.chat("a " * (number + 1), conversation="one"), good=number % 2 == 0))
    found = curated(home)
    assert len(found.train.pairs) == MOST_HELD_TOGETHER**2
    assert found.counts["set_aside"] == {TOO_MANY_REPLIES: 40 - 2 * MOST_HELD_TOGETHER}
    newest = {tokenize("a " * (number + 1)) for number in range(40 - 2 * MOST_HELD_TOGETHER, 40)}
    assert {reply for pair in found.train.pairs for reply in (pair.chosen, pair.rejected)} == newest


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


def test_what_does_not_fit_the_model_is_set_aside_and_leaves_nothing_to_learn(home: Home) -> None:
    home.compare("a", "b b b b b b b b b b", "a")
    found = curated(home, max_length=8)
    assert found.counts["set_aside"] == {TOO_LONG: 1}
    assert stages_of("auto", found.train) == ()
    home.correct("a", "one two three four")  # 5 prompt tokens, 4 words, EOS
    assert len(curated(home, max_length=10).train.demonstrations) == 1
    assert curated(home, max_length=9).train.demonstrations == ()


def test_a_correction_that_is_too_long_leaves_the_one_before_in_force(home: Home) -> None:
    exchange = home.chat("a")
    home.judge(Correction(exchange_id=exchange, text="one two"))
    home.judge(Correction(exchange_id=exchange, text="one two three four five six"))
    found = curated(home, max_length=10)
    assert [one.reply_token_ids for one in found.train.demonstrations] == [tokenize("one two")]
    assert found.counts["set_aside"] == {TOO_LONG: 1}


def test_replies_of_another_base_model_are_not_learned_from(home: Home) -> None:
    home.correct("a", "bb", base="acorn")
    home.compare("a", "bb", "a", base="acorn", prompt=(1, 8, 2))
    home.compare("a", "bb", "a", prompt=(1, 9, 2))
    found = curated(home, base="sprout")
    assert [pair.prompt_token_ids for pair in found.train.pairs] == [(1, 9, 2)]
    assert found.train.prompts == ((1, 9, 2),)
    assert not found.train.demonstrations
    assert found.counts["set_aside"] == {OTHER_BASE: 2}
    assert len(curated(home).train.pairs) == 1  # by default, what answered last


def test_a_judgement_whose_prompt_tokens_are_unknown_is_counted(home: Home) -> None:
    home.correct("a", "bb", prompt=())
    found = curated(home)
    assert found.counts["set_aside"] == {NO_PROMPT: 1}
    assert stages_of("auto", found.train) == ()


def test_labels_are_kept_and_said_to_be_unused(home: Home) -> None:
    home.judge(Label(exchange_id=home.chat("a"), labels=("wrong",)))
    found = curated(home)
    assert found.counts["judgements"] == {"label": 1}
    assert "not used by this method yet" in found.set_aside
    assert found.train.flagged == ()


def test_a_label_of_harm_flags_its_prompt(home: Home) -> None:
    flagged = home.judge(Label(exchange_id=home.chat("a", prompt=(1, 8, 2)), labels=("wrong", "Harmful")))
    found = curated(home)
    assert [(one.prompt_token_ids, one.feedback_id) for one in found.train.flagged] == [((1, 8, 2), flagged)]
    assert found.train.conversations[1, 8, 2] == (("user", "1 8 2"),)
    assert found.counts["train"]["flagged"] == 1 and "sl-cai and rl-cai" in found.set_aside


def test_a_critique_waits_for_the_model_to_revise_the_reply_by_it(home: Home) -> None:
    exchange = home.chat("it is Lyon")
    told = home.judge(Critique(exchange_id=exchange, text="That is the wrong city."))
    home.judge(Critique(exchange_id=home.chat("cut", complete=False), text="No end."))
    found = curated(home)
    (one,) = found.train.criticised
    assert (one.critique, one.feedback_id) == ("That is the wrong city.", told)
    assert one.reply_token_ids == tokenize("it is Lyon") and one.prompt_token_ids == PROMPT
    assert found.counts["train"]["critiques"] == 1 and found.counts["set_aside"] == {CUT_OFF: 1}
    assert stages_of("auto", found.train) == ("dpo",) and stages_of("ppo", found.train) == ("ppo",)
    assert stages_of("sft", found.train) == () and learned_from(found, ("dpo",)) == [told]
    assert curated(home, max_length=4).train.criticised == ()


def test_a_newer_critique_of_the_same_reply_by_the_same_person_counts(home: Home) -> None:
    exchange = home.chat("it is Lyon")
    home.judge(Critique(exchange_id=exchange, text="Wrong."))
    home.judge(Critique(exchange_id=exchange, text="It is Paris."))
    found = curated(home)
    assert [one.critique for one in found.train.criticised] == ["It is Paris."]


def test_what_was_revised_while_serving_is_no_judgement_of_people(home: Home) -> None:
    draft, revision = (NewReply(text, "stop", tokenize(text), []) for text in ("a pin", "I will not"))
    for base in ("sprout", "another"):
        exchange = home.chat("I will not", base=base)
        step = NewRevision(1, "c0", "0" * 64, "no-harm", "It harms.", draft, revision, "revised", "", 0.1)
        with home.store.begin() as tx:
            add_revisions(tx, exchange, [step])
    home.chat("a")
    found = curated(home)
    (pair,) = found.train.ai_pairs + found.held_out.ai_pairs
    assert (pair.chosen, pair.rejected) == (tokenize("I will not"), tokenize("a pin")) and found.train.pairs == ()


def test_the_newest_word_of_a_person_counts(home: Home) -> None:
    exchange = home.chat("a", "bb")
    refs = [ReplyRef(exchange_id=exchange, index=index) for index in (0, 1)]
    home.judge(Comparison(a=refs[0], b=refs[1], verdict="a"))
    home.judge(Comparison(a=refs[1], b=refs[0], verdict="a"))
    found = curated(home)
    assert preferences(found) == {(tokenize("bb"), tokenize("a"))}
    assert found.counts["set_aside"] == {SAID_AGAIN: 1}


def test_the_newest_word_counts_whatever_its_kind(home: Home) -> None:
    exchange = home.chat("a", "bb")
    first, second = (ReplyRef(exchange_id=exchange, index=index) for index in (0, 1))
    home.judge(Thumb(exchange_id=exchange, index=0, good=True))
    home.judge(Thumb(exchange_id=exchange, index=1, good=False))
    assert preferences(curated(home)) == {(tokenize("a"), tokenize("bb"))}
    home.judge(Comparison(a=first, b=second, verdict="b"))
    assert preferences(curated(home)) == {(tokenize("bb"), tokenize("a"))}


def test_people_who_contradict_each_other_teach_nothing_and_a_majority_does(home: Home) -> None:
    home.compare("a", "bb", "a", caller="name:ann")
    home.compare("a", "bb", "b", caller="name:bob")
    found = curated(home)
    assert not found.train.pairs
    assert found.counts["set_aside"] == {DISAGREEMENT: 2}
    home.compare("a", "bb", "a", caller="name:cid", strength=3)
    (pair,) = curated(home).train.pairs
    assert pair.chosen == tokenize("a")
    assert pair.margin == 0.5  # (1 - 1 + 1.5) / 3 people
    assert len(pair.feedback_ids) == 3


def test_a_correction_that_others_contradict_is_no_demonstration(home: Home) -> None:
    home.correct("right words", "wrong word here", caller="name:ann")
    home.correct("wrong word here", "right words", caller="name:bob")
    found = curated(home)
    assert not found.train.demonstrations and not found.train.pairs
    assert found.counts["set_aside"] == {DISAGREEMENT: 2, OUTVOTED: 2}


def test_a_prompt_is_corrected_in_one_way_a_person_s_newest_and_that_of_most(home: Home) -> None:
    def taught() -> list[tuple[int, ...]]:
        return [one.reply_token_ids for one in curated(home).train.demonstrations]

    home.correct("a", "bb bb")
    home.correct("a a", "ccc")
    assert taught() == [tokenize("ccc")]
    home.correct("a a a", "dddd", caller="name:bob")
    assert taught() == [tokenize("dddd")]  # one person each: the newest
    home.correct("a a a a", "ccc", caller="name:cid")
    assert taught() == [tokenize("ccc")]  # two against one
    set_aside = curated(home).counts["set_aside"]
    assert (set_aside[SAID_AGAIN], set_aside[TWICE], set_aside[OTHER_CORRECTION]) == (1, 1, 1)
    home.correct("a", "dddd", prompt=(1, 9))
    assert taught() == [tokenize("ccc"), tokenize("dddd")]  # another prompt


def test_a_person_who_corrects_their_own_correction_teaches_the_later_one(home: Home) -> None:
    home.correct("it is Lyon", "Nice")
    home.correct("Nice", "it is Paris then")
    found = curated(home)
    assert [one.reply_token_ids for one in found.train.demonstrations] == [tokenize("it is Paris then")]
    assert preferences(found) == {(tokenize("it is Paris then"), tokenize("Nice"))}
    assert found.counts["set_aside"] == {SAID_AGAIN: 1}
    assert stages_of("auto", found.train) == ("sft",)
    home.correct("it is Paris then", "Nice")  # and back again
    assert [one.reply_token_ids for one in curated(home).train.demonstrations] == [tokenize("Nice")]


def test_a_correction_of_a_cut_off_reply_is_still_a_demonstration(home: Home) -> None:
    home.correct("it is", "it is Paris", complete=False)
    home.compare("a", "bb", "a", complete=False)
    found = curated(home)
    assert len(found.train.demonstrations) == 1 and not found.train.pairs
    assert found.counts["set_aside"] == {CUT_OFF: 1}


def test_two_replies_that_are_the_same_make_no_pair(home: Home) -> None:
    home.compare("a", "a", "a")
    assert curated(home).counts["set_aside"] == {SAME_REPLY: 1}


def test_one_person_can_not_flood_a_run(home: Home) -> None:
    for number in range(8):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2), caller="name:loud")
    home.compare("a", "bb", "b", prompt=(1, 99, 2), caller="name:quiet")
    found = curated(home, max_per_person=3)
    assert len(found.train.pairs) == 4
    assert found.counts["set_aside"] == {OVER_CAP: 5}
    assert {pair.prompt_token_ids[1] for pair in found.train.pairs} == {55, 56, 57, 99}  # the newest


def test_the_held_out_split_is_by_conversation_and_stable_as_feedback_grows(home: Home) -> None:
    for number in range(40):
        home.compare("a", "bb", "a", prompt=(1, 50 + number % 30, 2), conversation=f"conv-{number // 2}")
    before = curated(home)
    for number in range(40, 80):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2), conversation=f"conv-{number // 2}")
    after = curated(home)

    def conversations(pairs: tuple[Pair, ...]) -> set[str]:
        return {pair.conversation_id for pair in pairs}

    assert conversations(before.held_out.pairs) <= conversations(after.held_out.pairs)
    assert len(conversations(after.held_out.pairs)) >= 3
    for found in (before, after):
        assert not conversations(found.train.pairs) & conversations(found.held_out.pairs)
        assert not set(found.train.prompts) & set(found.held_out.prompts)


def test_the_first_judgements_and_early_corrections_always_teach(home: Home) -> None:
    for number in range(10):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2))
    assert len(curated(home, held_out_share=0.99).train.pairs) == 10
    home.compare("a", "bb", "a", prompt=(1, 70, 2), conversation="conv-held")
    home.correct("a", "bb", prompt=(1, 71, 2), conversation="conv-taught")
    found = curated(home, held_out_share=0.99)
    assert [pair.conversation_id for pair in found.held_out.pairs] == ["conv-held"]
    assert len(found.train.demonstrations) == 1


def test_what_was_taught_is_never_measured_on_later_whatever_people_change(home: Home) -> None:
    first = [home.compare("a", "bb", "a", prompt=(1, 50 + n, 2), conversation=f"conv-{n}") for n in range(10)]
    for number in range(10, 40):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2), conversation=f"conv-{number}")
    before = curated(home, held_out_share=0.5)
    with home.store.begin() as tx:
        for name in first[:5]:
            given = feedback.get_feedback(tx, "name:ann", name).feedback
            feedback.change_feedback(tx, "name:ann", name, given.model_copy(update={"strength": 3}))
        feedback.withdraw_feedback(tx, "name:ann", first[5])
    home.compare("a", "bb", "a", prompt=(1, 51, 2), conversation="conv-39")  # a prompt that was taught is asked again
    after = curated(home, held_out_share=0.5)
    taught = {pair.conversation_id for pair in before.train.pairs}
    assert taught and after.held_out.pairs
    assert not taught & {pair.conversation_id for pair in after.held_out.pairs}
    assert not set(before.train.prompts) & set(after.held_out.prompts)


def test_a_correction_given_on_both_sides_of_the_split_is_learned(home: Home) -> None:
    for number in range(10):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2))
    for number in range(200):
        home.correct("a", "ccc", prompt=(1, 100 + number, 2))
    held = next(name for name in (f"conv-{n}" for n in range(100)) if _fraction(name) < 0.2)
    free = next(name for name in (f"conv-{n}" for n in range(100)) if _fraction(name) >= 0.2)
    home.correct("a", "bb", prompt=(1, 90, 2), conversation=held)
    home.correct("a", "bb", prompt=(1, 90, 2), conversation=free, caller="name:bob")
    found = curated(home)
    assert free in {one.conversation_id for one in found.train.demonstrations}
    assert not any(one.prompt_token_ids == (1, 90, 2) for one in found.held_out.demonstrations)


def test_what_both_sides_of_the_split_said_together_is_neither_learned_nor_measured(home: Home) -> None:
    for number in range(10):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2))
    held = next(name for name in (f"conv-{n}" for n in range(100)) if _fraction(name) < 0.2)
    free = next(name for name in (f"conv-{n}" for n in range(100)) if _fraction(name) >= 0.2)
    home.compare("a", "bb", "a", prompt=(1, 90, 2), conversation=held)
    home.compare("a", "bb", "a", prompt=(1, 90, 2), conversation=free, caller="name:bob")
    found = curated(home)
    assert len(found.train.pairs) == 10 and not found.held_out.pairs
    assert found.counts["set_aside"] == {ON_BOTH_SIDES: 1}


def test_a_large_store_is_replayed_in_part_newest_first(home: Home) -> None:
    for number in range(30):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2))
    found = curated(home, max_examples=10, held_out_share=0.0001)
    numbers = [pair.prompt_token_ids[1] - 50 for pair in found.train.pairs]
    assert len(numbers) == 10
    assert numbers[-5:] == [25, 26, 27, 28, 29]
    assert all(first < second for first, second in pairwise(numbers))
    assert curated(home, max_examples=10, held_out_share=0.0001).train == found.train


def test_an_empty_store_gives_an_empty_snapshot() -> None:
    found = curate(FrozenFeedback((), (), 0), LearnerSettings())
    assert found.train.pairs == found.held_out.pairs == ()
    assert stages_of("auto", found.train) == ()


def test_a_method_trains_only_on_what_it_can_use(home: Home) -> None:
    home.correct("a", "bb")
    train = curated(home).train
    assert stages_of("auto", train) == ("sft",)  # a correction alone is no taste
    assert stages_of("sft", train) == ("sft",)
    assert stages_of("dpo", train) == ("dpo",)
    home.correct("ccc", "bb")  # the same correction of another reply
    assert stages_of("auto", curated(home).train) == ("sft",)
    home.compare("a", "bb", "a", prompt=(1, 60, 2))
    assert stages_of("auto", curated(home).train) == ("sft", "dpo")


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_what_follows_a_reward_takes_comparisons_or_enough_thumbs(home: Home, method: Literal["ppo", "raft"]) -> None:
    home.correct("a", "bb")
    assert stages_of(method, curated(home).train) == ()
    assert stages_of("auto", curated(home).train, method) == ("sft",)
    for number in range(LEAST_THUMBS):
        thumb(home, "a", True, prompt=(1, 50 + number, 2))
    assert stages_of(method, curated(home).train) == ()
    for number in range(LEAST_THUMBS):
        thumb(home, "a", False, prompt=(1, 70 + number, 2))
    assert stages_of("auto", curated(home).train, method) == ("sft", method)
    home.compare("bb", "a", "a", prompt=(1, 90, 2))
    lessons = curated(home)
    assert stages_of(method, lessons.train) == (method,)
    told = {name for pair in lessons.train.pairs for name in pair.feedback_ids}
    told |= {name for label in lessons.train.labels for name in label.feedback_ids}
    assert told and set(learned_from(lessons, (method,))) >= told


def test_single_thumbs_start_learning_where_there_are_enough_of_both_kinds_and_few_judged_pairs(home: Home) -> None:
    for number in range(LEAST_THUMBS):
        thumb(home, "a", True, prompt=(1, 50 + number, 2))
    train = curated(home).train
    assert stages_of("auto", train) == ()
    assert stages_of("kto", train) == ("kto",) and stages_of("dpo", train) == ()
    for number in range(LEAST_THUMBS):
        thumb(home, "a", False, prompt=(1, 70 + number, 2))
    assert stages_of("auto", curated(home).train) == ("kto",)
    home.correct("a", "bb")
    assert stages_of("auto", curated(home).train) == ("sft", "kto")  # a correction's own pair is no taste
    assert stages_of("sft", curated(home).train) == ("sft",)
    thumbs = set(curated(home).train.labels)
    for number in range(2 * LEAST_THUMBS // THUMBS_TO_A_PAIR):
        home.compare("bb", "a", "a", prompt=(1, 90 + number, 2))
        assert stages_of("auto", curated(home).train) == ("sft", "kto")
    train = curated(home).train
    from_pairs = set(as_labels(train)) - thumbs
    assert {(one.prompt_token_ids, one.desirable) for one in from_pairs} == {
        (pair.prompt_token_ids, is_good) for pair in judgements_of_taste(train) for is_good in (True, False)
    }
    lessons = curated(home)
    assert set(learned_from(lessons, ("kto",))) == {name for one in as_labels(train) for name in one.feedback_ids}
    for number in range(LEAST_THUMBS):
        home.compare("bb", "a", "a", prompt=(1, 100 + number, 2))
    assert stages_of("auto", curated(home).train) == ("sft", "dpo")
    assert stages_of("kto", curated(home).train) == ("kto",)


@given(st.text())
def test_the_fraction_of_a_conversation_is_a_fraction(name: str) -> None:
    assert 0 <= _fraction(name) < 1 and _fraction(name) == _fraction(name)
