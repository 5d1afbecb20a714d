"""Feedback that is withdrawn is neither published nor kept: before, during and after the run that learned from it."""

from __future__ import annotations

import pytest

from service.errors import TrainingFailed
from service.store.queries import feedback, runs
from tests.learner.pretend_training import Killed, Pretender, adapters_of, cycle, go_live, requested, withdraw
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import give_back, lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


@pytest.mark.parametrize("place", ["sft 2", "evaluate", "publish"])
def test_feedback_that_is_withdrawn_while_it_is_learned_from_is_not_published(home: Home, place: str) -> None:
    kept, secret = home.correct("a", "bb"), home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home)

    def take_back(here: str) -> None:
        if here == place:
            withdraw(home, secret)

    trainer = Pretender(take_back)
    cycle(home, lease(home), trainer).run()
    assert trainer.done.count("train") == 2
    run = the_run(home, run_id)
    assert run.state == "succeeded" and "1 correction of" in run.message
    text = (home.settings.runs_folder / run_id / "snapshot.jsonl").read_text()
    assert kept in text and secret not in text
    assert [name for name, state in adapters_of(home).items() if state == "candidate"] == [run.adapter]
    with home.store.read() as tx:
        assert feedback.get_feedback(tx, "name:ann", secret).learned_in == ()


def test_an_attempt_begins_afresh_when_feedback_was_withdrawn_since_the_one_before(home: Home) -> None:
    home.correct("a", "bb")
    secret = home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home)
    first = lease(home)

    def die(here: str) -> None:
        if here == "evaluate":
            raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    withdraw(home, secret)
    give_back(home, first)
    second = Pretender()
    cycle(home, lease(home), second).run()
    assert second.done == ["train", "evaluate"]
    assert secret not in (home.settings.runs_folder / run_id / "snapshot.jsonl").read_text()


def test_who_withdraws_again_and_again_can_not_keep_a_run_busy_for_ever(home: Home) -> None:
    given = [home.correct("a", "b" * number, prompt=(1, number)) for number in range(2, 8)]
    queue(home)

    def take_back(here: str) -> None:
        if here == "publish":
            withdraw(home, given.pop())

    with pytest.raises(TrainingFailed, match="withdrawn again and again"):
        cycle(home, lease(home), Pretender(take_back)).run()
    assert "candidate" not in adapters_of(home).values()


def test_what_was_withdrawn_later_is_unlearned_by_the_next_run(home: Home) -> None:
    secret = home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v1")
    home.correct("a", "ccc", prompt=(1, 9))
    queue(home, second=True)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v2")
    withdraw(home, secret)
    run_id, trainer = queue(home, third=True), Pretender()
    cycle(home, lease(home), trainer).run()
    assert trainer.parents == [None] and the_run(home, run_id).parent is None
    assert "It starts from the base: v2 knows feedback that was withdrawn." in the_run(home, run_id).message
    go_live(home, "v3")
    queue(home, fourth=True)
    after = Pretender()
    cycle(home, lease(home), after).run()
    assert after.parents == [home.settings.adapters_folder / "v3"]


@pytest.mark.parametrize("how", ["other lessons", "not to be promoted", "an operator went back"])
def test_what_knows_withdrawn_feedback_stays_live_where_a_candidate_would_wait_or_there_is_more_to_learn(
    home: Home, how: str
) -> None:
    secret = home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v1")
    if how == "other lessons":
        home.correct("a", "ccc", prompt=(1, 9), complete=False)  # of a reply that was cut off: it makes no pair
        with home.store.begin() as tx:
            run = runs.queue_run(tx, "command-again", "command", "dpo", {})
        assert run is not None
        run_id = run.id
    else:
        if how == "an operator went back":
            queue(home, second=True)
            cycle(home, lease(home), Pretender()).run()
            go_live(home, "v2")
            go_live(home, "v1", "name:op")
        run_id = queue(home, again=True, **({"promote": False} if how == "not to be promoted" else {}))
    withdraw(home, secret)
    cycle(home, lease(home), Pretender()).run()
    said = the_run(home, run_id)
    assert said.state == "nothing_to_learn"
    assert "v1 knows feedback that was withdrawn: " in said.message
    assert requested(home) is None


def test_where_all_was_withdrawn_what_was_live_before_goes_live_again(home: Home) -> None:
    secret = home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v1")
    withdraw(home, secret)
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert the_run(home, run_id).state == "nothing_to_learn"
    assert "v1 knows feedback that was withdrawn, so base goes live." in the_run(home, run_id).message
    assert requested(home) == "base"
