"""Between people, and between what one person says sooner and later: whose word counts."""

from __future__ import annotations

from learner.called import DISAGREEMENT, SAID_AGAIN
from learner.consensus import OTHER_CORRECTION, OUTVOTED, TWICE
from learner.curate import OVER_CAP
from learner.trainer import stages_of
from service.wire import Comparison, Critique, ReplyRef, Thumb
from tests.learner.curating import curated, preferences
from tests.learner.store_fixtures import Home, tokenize
from tests.learner.store_fixtures import home as home


def test_a_newer_critique_of_the_same_reply_by_the_same_person_counts(home: Home) -> None:
    exchange = home.chat("it is Lyon")
    home.judge(Critique(exchange_id=exchange, text="Wrong."))
    home.judge(Critique(exchange_id=exchange, text="It is Paris."))
    found = curated(home)
    assert [one.critique for one in found.train.criticised] == ["It is Paris."]


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


def test_one_person_can_not_flood_a_run(home: Home) -> None:
    for number in range(8):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2), caller="name:loud")
    home.compare("a", "bb", "b", prompt=(1, 99, 2), caller="name:quiet")
    found = curated(home, max_per_person=3)
    assert len(found.train.pairs) == 4
    assert found.counts["set_aside"] == {OVER_CAP: 5}
    assert {pair.prompt_token_ids[1] for pair in found.train.pairs} == {55, 56, 57, 99}  # the newest
