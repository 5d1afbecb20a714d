"""A run says how much of what it could have learned from was kept back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from learner.batch import Criticised, Pair, Snapshot
from learner.curate import Curated, curate
from learner.snapshot import FrozenFeedback, collect
from learner.summary import describe, why_nothing
from service.store.queries import feedback
from service.wire import Critique
from tests.learner.store_fixtures import Home, tokenize


def frozen_feedback(home: Home) -> FrozenFeedback:
    with home.store.read() as tx:
        return collect(tx, feedback.last_position(tx), tokenize, "sprout")


def critiques(home: Home, count: int) -> tuple[FrozenFeedback, Curated]:
    """So many, each about a conversation of its own: the first ten always teach."""
    for number in range(count):
        told = Critique(exchange_id=home.chat("it is Lyon", prompt=(1, 40 + number, 2)), text="It is another city.")
        home.judge(told)
    frozen = frozen_feedback(home)
    return frozen, curate(frozen, home.settings.learner)


def test_critiques_that_were_held_out_are_counted_where_critiques_are_learned_from(tmp_path: Path) -> None:
    frozen, lessons = critiques(Home(tmp_path, held_out_share=0.99), 12)
    assert (lessons.counts["train"]["critiques"], lessons.counts["held_out"]["critiques"]) == (10, 2)
    assert "0 pairs and 2 critiques held out." in describe(frozen, lessons, ("dpo",))
    assert "0 replies and 2 critiques held out." in describe(frozen, lessons, ("kto",))
    assert "0 pairs held out." in describe(frozen, lessons, ("sl-cai",))  # which learns from none


def test_feedback_that_was_all_held_out_is_said_to_be(tmp_path: Path) -> None:
    _, lessons = critiques(Home(tmp_path, held_out_share=0.99), 12)
    nothing = replace(lessons, train=Snapshot())
    assert "Held out for evaluation: 2 examples." in why_nothing(nothing, "auto")


def test_revisions_that_were_held_out_are_counted_where_they_are_learned_from(tmp_path: Path) -> None:
    frozen, lessons = critiques(Home(tmp_path), 1)
    pair = Pair((1, 2), (4, 3), (5, 3))
    counts = lessons.counts | {"held_out": lessons.counts["held_out"] | {"served_revisions": 1}}
    judged = replace(lessons, train=Snapshot(ai_pairs=(pair,), criticised=(Criticised((1, 2), (5, 3), "no"),)))
    assert "0 pairs and 1 revision held out." in describe(frozen, replace(judged, counts=counts), ("rl-cai",))
    assert "1 revision" not in describe(frozen, replace(lessons, counts=counts), ("dpo",))


def test_pairs_that_were_held_out_are_counted_where_kto_learns_from_pairs(tmp_path: Path) -> None:
    frozen, lessons = critiques(Home(tmp_path), 1)
    pair, label = Pair((1, 2), (4, 3), (5, 3)), {"good": 1, "bad": 2}
    lessons = replace(lessons, train=Snapshot(pairs=(pair, pair)), held_out=Snapshot(pairs=(pair,)))
    assert "from 2 pairs; 1 pair held out." in describe(frozen, lessons, ("kto",))
    counts = lessons.counts | {"held_out": lessons.counts["held_out"] | label}
    assert "; 3 replies and 1 pair held out." in describe(frozen, replace(lessons, counts=counts), ("kto",))
