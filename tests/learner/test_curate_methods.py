"""Which of the examples each method trains on, and which methods `auto` chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from learner.batch import Criticised
from learner.summary import learned_from
from learner.trainer import LEAST_THUMBS, THUMBS_TO_A_PAIR, as_labels, judgements_of_taste, one_side, stages_of
from tests.learner.curating import curated, thumb
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


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
    told = {name for pair in judgements_of_taste(lessons.train) for name in pair.feedback_ids}
    told |= {name for label in lessons.train.labels for name in label.feedback_ids}
    assert told and set(learned_from(lessons, (method,))) == told  # without the correction, which only sft learns


def test_single_thumbs_start_learning_where_there_are_enough_of_both_kinds_and_few_judged_pairs(home: Home) -> None:
    for number in range(LEAST_THUMBS):
        thumb(home, "a", True, prompt=(1, 50 + number, 2))
    train = curated(home).train
    assert stages_of("auto", train) == ()
    assert stages_of("kto", train) == stages_of("dpo", train) == ()
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


@pytest.mark.parametrize("good", [True, False])
def test_thumbs_of_one_side_teach_kto_once_there_is_another_side(home: Home, good: bool) -> None:
    thumb(home, "a", good, prompt=(1, 50, 2))
    train = curated(home).train
    assert (stages_of("kto", train), one_side(train)) == ((), "good" if good else "bad")
    criticised = Criticised((1, 50, 2), (9, 2), "Too long.")
    assert stages_of("kto", replace(train, criticised=(criticised,))) == ("kto",)  # a pair, once it is revised
    home.compare("bb", "a", "a", prompt=(1, 90, 2))
    assert (stages_of("kto", curated(home).train), one_side(curated(home).train)) == (("kto",), "")
    other = replace(train, labels=(*train.labels, replace(train.labels[0], desirable=not good)))
    assert (stages_of("kto", other), one_side(other)) == (("kto",), "")


def test_pairs_alone_teach_kto_where_it_is_asked_for_by_name(home: Home) -> None:
    home.correct("a", "bb")
    assert stages_of("kto", curated(home).train) == ()  # a correction's own pair is no taste
    compared = home.compare("bb", "a", "a", prompt=(1, 90, 2))
    lessons = curated(home)
    assert stages_of("kto", lessons.train) == ("kto",) and stages_of("auto", lessons.train) == ("sft", "dpo")
    assert learned_from(lessons, ("kto",)) == [compared]
