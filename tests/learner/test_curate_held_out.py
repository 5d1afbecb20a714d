"""What is held out, by conversation, and what is replayed: nobody is measured on what they taught."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from learner.batch import Pair
from learner.curate import ON_BOTH_SIDES, _fraction
from service.store.queries import feedback
from service.wire import Label
from tests.learner.curating import curated
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


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


def test_a_flagged_prompt_measures_only_where_nobody_flagged_it_in_a_conversation_that_is_learned_from(
    home: Home,
) -> None:
    for number in range(10):
        home.compare("a", "bb", "a", prompt=(1, 50 + number, 2), conversation=f"first-{number}")
    sides: dict[bool, list[str]] = {False: [], True: []}
    for number in range(40):
        sides[_fraction(f"conv-{number}") < 0.5].append(f"conv-{number}")
    for prompt, conversations in (
        (70, [sides[False][0], sides[True][0]]),
        (71, sides[False][1:3]),
        (72, sides[True][1:3]),
    ):
        for name in conversations:
            exchange = home.chat("a", prompt=(1, prompt, 2), conversation=name)
            home.judge(Label(exchange_id=exchange, labels=("harmful",)))
    found = curated(home, held_out_share=0.5)
    taught, measured = ({one.prompt_token_ids for one in part.flagged} for part in (found.train, found.held_out))
    assert taught == {(1, 70, 2), (1, 71, 2)} and measured == {(1, 72, 2)}


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


@given(st.text())
def test_the_fraction_of_a_conversation_is_a_fraction(name: str) -> None:
    assert 0 <= _fraction(name) < 1 and _fraction(name) == _fraction(name)
