"""A run that is killed goes on and makes one adapter; one that was taken over or stopped publishes nothing."""

from __future__ import annotations

import pytest

from learner.metrics import read_metrics
from learner.run_progress import Stopped
from service.adapters.fingerprint import fingerprint_if_known
from service.errors import LeaseLost, TrainingFailed
from service.store.queries import runs
from tests.learner.pretend_training import Killed, Pretender, adapters_of, cycle, requested
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import give_back, lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home

PLACES = ("sft 1", "sft 3", "dpo 2", "saved", "evaluate", "publish")


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_is_killed_anywhere_goes_on_and_makes_one_adapter(home: Home, place: str) -> None:
    home.correct("a", "bb")
    home.compare("yes", "certainly so", "b")
    run_id = queue(home)
    first = lease(home)

    def die(here: str) -> None:
        if here == place:
            raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    frozen_as = the_run(home, run_id).snapshot_hash
    home.correct("a", "ccc")  # too late for this run, whose snapshot is frozen
    give_back(home, first)
    second = Pretender()
    cycle(home, lease(home), second).run()
    run = the_run(home, run_id)
    assert (run.state, run.attempt) == ("succeeded", 2)
    assert run.snapshot_hash == frozen_as
    assert [state for state in adapters_of(home).values() if state != "rejected"] == ["candidate"]
    assert requested(home) == run.adapter
    assert ("train" in second.done) == (place not in ("evaluate", "publish"))
    steps = [
        (line["phase"], line["step"]) for line in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")
    ]
    assert len(steps) == len(set(steps)) == 6
    left = {path.name for path in home.settings.adapters_folder.iterdir() if not path.name.startswith(".")}
    assert left == {run.adapter}


@pytest.mark.parametrize("place", ["sft 3", "evaluate", "publish"])
def test_a_learner_whose_run_was_taken_over_publishes_nothing(home: Home, place: str) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    first = lease(home)

    def lose(here: str) -> None:
        if here == place:
            give_back(home, first)
            lease(home)

    with pytest.raises(LeaseLost):
        cycle(home, first, Pretender(lose)).run()
    assert the_run(home, run_id).state == "running"
    assert "candidate" not in adapters_of(home).values()
    assert requested(home) is None


def test_a_cancelled_run_publishes_nothing(home: Home) -> None:
    home.correct("a", "bb")
    run_id = queue(home)

    def cancel(here: str) -> None:
        if here == "publish":
            with home.store.begin() as tx:
                runs.cancel_run(tx, run_id)

    with pytest.raises(LeaseLost):
        cycle(home, lease(home), Pretender(cancel)).run()
    assert "candidate" not in adapters_of(home).values()


def test_a_training_that_is_asked_to_stop_stops_at_the_next_step(home: Home) -> None:
    home.correct("a", "bb")
    queue(home)

    def stop(here: str) -> None:
        if here == "sft 2":
            running.stop()

    running = cycle(home, lease(home), Pretender(stop))
    with pytest.raises(Stopped):
        running.run()


def test_a_base_model_that_came_with_the_first_attempt_is_no_other_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.correct("a", "bb")
    queue(home)
    first = lease(home)

    def die(place: str) -> None:
        monkeypatch.setattr("learner.cycle.fingerprint_if_known", fingerprint_if_known)  # training has fetched it
        if place == "evaluate":
            raise Killed

    monkeypatch.setattr("learner.cycle.fingerprint_if_known", lambda model: None)
    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    give_back(home, first)
    second = Pretender()
    cycle(home, lease(home), second).run()
    assert "train" not in second.done


@pytest.mark.parametrize("what", ["settings", "base", "niceness"])
def test_a_run_whose_settings_or_base_changed_after_a_kill_begins_afresh(
    home: Home, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    first = lease(home)

    def die(place: str) -> None:
        if place == "evaluate":
            raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    give_back(home, first)
    if what == "base":
        monkeypatch.setattr("learner.cycle.fingerprint_if_known", lambda model: "1" * 64)
    else:
        change = {"sft_epochs": 3} if what == "settings" else {"niceness": 3}
        learner = home.settings.learner.model_copy(update=change)
        home.settings = home.settings.model_copy(update={"learner": learner})
    second = Pretender()
    cycle(home, lease(home), second).run()
    assert ("train" in second.done) == (what != "niceness")
    assert the_run(home, run_id).state == "succeeded"


def test_a_snapshot_that_was_tampered_with_stops_the_run(home: Home) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    first = lease(home)

    def die(here: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    path = home.settings.runs_folder / run_id / "snapshot.jsonl"
    path.write_text(path.read_text() + "\n")
    give_back(home, first)
    with pytest.raises(TrainingFailed, match="has changed since it was frozen"):
        cycle(home, lease(home), Pretender()).run()
