"""Whether a candidate is asked for: not against its gates, nor against what an operator did meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.store.queries import serving
from tests.learner.pretend_training import Pretender, adapters_of, cycle, go_live, learn_v1, requested
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


def test_a_candidate_that_fails_a_gate_is_rejected_with_the_reasons_and_not_asked_for(home: Home) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    cycle(home, lease(home), Pretender(gates=("fluency",))).run()
    run = the_run(home, run_id)
    assert run.state == "rejected" and "fluency is not met." in run.message
    assert adapters_of(home) == {"v1": "rejected"}
    assert requested(home) is None


@pytest.mark.parametrize("wish", [False, None])
def test_without_the_wish_to_promote_a_candidate_waits_for_an_operator(tmp_path: Path, wish: bool | None) -> None:
    home = Home(tmp_path, auto_promote=wish is not None)
    home.correct("a", "bb")
    run_id = queue(home, promote=wish)
    cycle(home, lease(home), Pretender()).run()
    assert "waits for an operator" in the_run(home, run_id).message
    assert requested(home) is None
    home.store.close()


def test_a_candidate_does_not_undo_a_roll_back_by_itself(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.flip_live(tx, "v1", "test", "proven")
    run_id = queue(home, again=True)

    def roll_back(here: str) -> None:
        if here == "evaluate":
            with home.store.begin() as tx:
                serving.flip_live(tx, "base", "operator", "v1 is rude")

    cycle(home, lease(home), Pretender(roll_back)).run()
    assert "operator made base live meanwhile" in the_run(home, run_id).message
    assert adapters_of(home)["v2"] == "candidate" and requested(home) is None


def test_a_candidate_does_not_take_over_from_what_an_operator_promoted_meanwhile(home: Home) -> None:
    learn_v1(home)
    home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home, again=True)

    def promote(here: str) -> None:
        if here == "evaluate":
            go_live(home, "v1", "name:op")

    cycle(home, lease(home), Pretender(promote)).run()
    assert "name:op made v1 live meanwhile" in the_run(home, run_id).message
    assert requested(home) is None


def test_after_an_operator_went_back_candidates_wait_until_one_is_promoted(home: Home) -> None:
    learn_v1(home)
    go_live(home, "v1")
    go_live(home, "base", "name:op")
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert "name:op went back from v1 to base, so it waits" in the_run(home, run_id).message
    assert requested(home) is None
    queue(home, promote=True)  # by whom "learn now, and promote it" was said, that is meant
    cycle(home, lease(home), Pretender()).run()
    assert requested(home) == "v3"
    go_live(home, "v3", "name:op")
    queue(home, third=True)
    cycle(home, lease(home), Pretender()).run()
    assert requested(home) == "v4"


def test_a_candidate_does_not_drop_what_an_operator_asked_for(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.request_live(tx, "v1", "operator", "I like it")
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert "asked for v1 meanwhile" in the_run(home, run_id).message
    assert requested(home) == "v1"
