"""A run's attempts: bounded, and which of them count."""

from __future__ import annotations

from service.store.queries import runs
from service.store.session import Store
from tests.service.queued_runs import EXPIRED, MAX_ATTEMPTS, queue_run, state_of, take_lease


def test_a_learner_that_died_costs_its_run_an_attempt_and_one_that_stopped_does_not(store: Store) -> None:
    run_id = queue_run(store)
    for died, attempt in ((False, 1), (True, 1), (True, 2), (False, 3)):
        lease = take_lease(store)
        assert lease is not None and lease.run.attempt == attempt
        with store.begin() as tx:
            runs.release_run(tx, run_id, lease.fence, died=died)


def test_a_run_whose_process_died_too_often_fails_with_the_reason_and_the_next_is_taken(store: Store) -> None:
    first, second = queue_run(store), queue_run(store)
    for _ in range(MAX_ATTEMPTS):
        lease = take_lease(store, seconds=EXPIRED)
        assert lease is not None and lease.run_id == first
        with store.begin() as tx:
            runs.progress(tx, first, lease.fence, "train", 1, 10)
    lease = take_lease(store)
    assert lease is not None and lease.run_id == second
    with store.read() as tx:
        failed = runs.get_run(tx, first)
    assert failed is not None
    assert (failed.state, failed.message) == ("failed", "Its process died 3 times, last in phase 'train'.")


def test_an_attempt_that_got_further_than_all_before_it_does_not_count(store: Store) -> None:
    run_id = queue_run(store)

    def attempt(*reached: tuple[str | None, int]) -> tuple[int, int]:
        """Begins, comes so far, and dies; returns which attempt that was, and how many were in vain."""
        lease = take_lease(store, seconds=EXPIRED)
        assert lease is not None and lease.run_id == run_id
        with store.begin() as tx:
            for stage, step in reached:
                runs.progress(tx, run_id, lease.fence, "train", step, 100, stage)
            run = runs.get_run(tx, run_id)
            assert run is not None
            return run.attempt, runs.in_vain(run)

    assert attempt(("sft", 5)) == (1, 1)  # before the first there was none
    assert attempt(("sft", 5)) == (2, 2)
    assert attempt(("sft", 0), ("sft", 9), ("sft", 12), ("dpo", 0)) == (3, 2)  # once, however much further
    assert attempt(("dpo", 0), ("dpo", 3)) == (4, 2)
    assert attempt(("dpo", 2), ("sft again", 0)) == (5, 2)
    assert attempt((None, 50), ("sft", 12), ("dpo", 3), ("sft again", 0)) == (6, 3)  # to wait is to get nowhere
    assert take_lease(store) is None
    assert state_of(store, run_id) == "failed"


def test_a_run_that_dies_at_one_place_fails_after_as_many_attempts_as_ever(store: Store) -> None:
    run_id, begun = queue_run(store), 0
    while (lease := take_lease(store, seconds=EXPIRED)) is not None:
        begun += 1
        assert begun <= MAX_ATTEMPTS
        with store.begin() as tx:
            for step in range(8):
                runs.progress(tx, run_id, lease.fence, "train", step, 100, "sft")
    assert (begun, state_of(store, run_id)) == (MAX_ATTEMPTS, "failed")


def test_an_attempt_that_got_further_and_was_stopped_in_order_is_as_if_it_had_not_been(store: Store) -> None:
    run_id = queue_run(store)
    for died, step, counted in ((True, 1, (1, 1)), (False, 2, (1, 1)), (True, 3, (2, 1)), (True, 3, (3, 2))):
        lease = take_lease(store)
        assert lease is not None
        with store.begin() as tx:
            runs.progress(tx, run_id, lease.fence, "train", step, 9, "sft")
            runs.release_run(tx, run_id, lease.fence, died=died)
            run = runs.get_run(tx, run_id)
            assert run is not None and (run.attempt, runs.in_vain(run)) == counted
