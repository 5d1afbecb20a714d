"""What each kind of feedback becomes, and what is set aside and counted."""

from __future__ import annotations

import pytest

from learner.called import MOST_HELD_TOGETHER, SAID_AGAIN, TOO_MANY_REPLIES
from learner.constitution.served import UNJUDGED
from learner.curate import NO_PROMPT, OTHER_BASE, OVER_SERVED, OVER_SIZE, TOO_LONG, curate
from learner.snapshot import FrozenFeedback
from learner.summary import learned_from
from learner.trainer import pairs_to_reward, stages_of
from learner.votes import BOTH_BAD, CUT_OFF, NOT_OF_HARM, SAME_REPLY
from service.settings import LearnerSettings
from service.store.queries.exchanges import NewReply
from service.store.queries.revisions import NewRevision, add_revisions
from service.wire import Correction, Critique, Label, Ranking, ReplyRef, Score, Thumb
from tests.learner.curating import curated, preferences
from tests.learner.store_fixtures import PROMPT, Home, tokenize
from tests.learner.store_fixtures import home as home


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
    assert pairs_to_reward(found.train)[0].weight == 1
    assert found.counts["set_aside"] == {}
    (scored,) = found.train.scored  # what made a pair is used once
    assert (scored.prompt_token_ids, scored.reply_token_ids) == (PROMPT, tokenize("ccc"))
    assert scored.points == pytest.approx(10 - (10 + 2 * 5.5) / 3)  # so far that is all that is known of bob


def test_opposite_thumbs_on_one_prompt_pair_up_and_others_wait(home: Home) -> None:
    home.judge(Thumb(exchange_id=home.chat("a"), good=True))
    home.judge(Thumb(exchange_id=home.chat("bb", caller="name:bob"), good=False), "name:bob")
    home.judge(Thumb(exchange_id=home.chat("a", prompt=(1, 9, 2)), good=True))
    found = curated(home)
    assert preferences(found) == {(tokenize("a"), tokenize("bb"))}
    (label,) = found.train.labels  # what made a pair is used once
    assert (label.prompt_token_ids, label.reply_token_ids, label.desirable) == ((1, 9, 2), tokenize("a"), True)
    assert found.counts["set_aside"] == {}


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


def test_labels_that_say_nothing_of_harm_are_kept_and_said_to_be_unused(home: Home) -> None:
    home.judge(Label(exchange_id=home.chat("a"), labels=("wrong",)))
    found = curated(home)
    assert found.counts["judgements"] == {"label": 1}
    assert found.counts["set_aside"] == {NOT_OF_HARM: 1}
    assert found.train.flagged == () and found.train.labels == ()


def test_a_label_of_harm_flags_its_prompt(home: Home) -> None:
    flagged = home.judge(Label(exchange_id=home.chat("a", prompt=(1, 8, 2)), labels=("wrong", "Harmful")))
    found = curated(home)
    assert [(one.prompt_token_ids, one.feedback_id) for one in found.train.flagged] == [((1, 8, 2), flagged)]
    assert found.train.conversations[1, 8, 2] == (("user", "1 8 2"),)
    assert found.counts["train"]["flagged"] == 1 and not found.set_aside


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


def test_what_was_revised_while_serving_is_no_judgement_of_people(home: Home) -> None:
    draft, revision = (NewReply(text, "stop", tokenize(text), []) for text in ("a pin", "I will not"))
    for base in ("sprout", "another"):
        exchange = home.chat("I will not", base=base)
        step = NewRevision(1, "c0", "0" * 64, "no-harm", "It harms.", draft, revision, "revised", "", 0.1, 0.8)
        with home.store.begin() as tx:
            add_revisions(tx, exchange, [step])
    home.chat("a")
    found = curated(home)
    (pair,) = found.train.ai_pairs + found.held_out.ai_pairs
    assert (pair.chosen, pair.rejected) == (tokenize("I will not"), tokenize("a pin")) and found.train.pairs == ()
    assert pair.certainty == 0.8


def test_a_served_revision_teaches_only_with_a_verdict_and_a_whole_end(home: Home) -> None:
    cut = NewReply("I will", "stop", tokenize("I will")[:-1], [])  # by the caller's own `stop`
    draft, revision = (NewReply(text, "stop", tokenize(text), []) for text in ("a pin", "I will not"))
    for after, odds in ((revision, None), (cut, 0.9)):
        step = NewRevision(1, "c0", "0" * 64, "no-harm", "It harms.", draft, after, "revised", "", 0.1, odds)
        exchange = home.chat("I will not")
        with home.store.begin() as tx:
            add_revisions(tx, exchange, [step])
    home.chat("a")
    found = curated(home)
    assert found.train.ai_pairs == found.held_out.ai_pairs == ()
    assert found.counts["set_aside"] == {UNJUDGED: 1}


def test_what_was_revised_while_serving_is_capped_and_has_to_fit_as_all_else(home: Home) -> None:
    for number in range(8):
        draft, revision = (NewReply(text, "stop", tokenize(text), []) for text in ("a", "b " * (number + 2)))
        step = NewRevision(1, "c0", "0" * 64, "no-harm", "It harms.", draft, revision, "revised", "", 0.1, 0.8)
        exchange = home.chat("b")
        with home.store.begin() as tx:
            add_revisions(tx, exchange, [step])
    home.chat("a")
    assert len(curated(home, held_out_share=1e-9).train.ai_pairs) == 8
    found = curated(home, held_out_share=1e-9, max_examples=2)
    assert len(found.train.ai_pairs) == found.counts["train"]["served_revisions"] == 2
    assert found.train.ai_pairs[-1].chosen == tokenize("b " * 9)  # the newest
    assert found.counts["set_aside"] == {OVER_SIZE: 6}
    longest = found.train.ai_pairs[-1].length
    assert curated(home, max_length=longest - 1).counts["set_aside"] == {TOO_LONG: 1}
    assert curated(home, max_per_person=3).counts["set_aside"] == {OVER_SERVED: 5}


def test_a_correction_of_a_cut_off_reply_is_still_a_demonstration(home: Home) -> None:
    home.correct("it is", "it is Paris", complete=False)
    home.compare("a", "bb", "a", complete=False)
    found = curated(home)
    assert len(found.train.demonstrations) == 1 and not found.train.pairs
    assert found.counts["set_aside"] == {CUT_OFF: 1}


def test_two_replies_that_are_the_same_make_no_pair(home: Home) -> None:
    home.compare("a", "a", "a")
    assert curated(home).counts["set_aside"] == {SAME_REPLY: 1}


def test_an_empty_store_gives_an_empty_snapshot() -> None:
    found = curate(FrozenFeedback((), (), 0), LearnerSettings())
    assert found.train.pairs == found.held_out.pairs == ()
    assert stages_of("auto", found.train) == ()
