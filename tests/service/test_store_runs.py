"""The runs table: unique ticks, one lease and one fence for each run, whoever asks or ends it at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import text

from service.errors import LeaseLost, NotFound
from service.store.queries import runs
from service.store.session import Store
from tests.fixtures.stores import PostgresServer
from tests.fixtures.threads import at_once
from tests.fixtures.waiting import until
from tests.service.queued_runs import EXPIRED, MAX_ATTEMPTS, queue_run, state_of, take_lease


def test_a_learner_that_was_taken_over_can_write_nothing_any_more(store: Store) -> None:
    run_id = queue_run(store)
    old, new = take_lease(store, seconds=EXPIRED), take_lease(store)
    assert old is not None and new is not None and old.run_id == new.run_id == run_id
    with store.begin() as tx:
        assert not runs.heartbeat(tx, run_id, old.fence, 60)
        writes: list[Callable[[], None]] = [
            lambda: runs.progress(tx, run_id, old.fence, "train", 1, 1),
            lambda: runs.set_snapshot(tx, run_id, old.fence, "abc", 1, [], None),
            lambda: runs.finish_run(tx, run_id, old.fence, "succeeded", "Done."),
            lambda: runs.release_run(tx, run_id, old.fence),
        ]
        for write in writes:
            with pytest.raises(LeaseLost, match="was taken over"):
                write()
        assert runs.heartbeat(tx, run_id, new.fence, 60)


def test_of_many_learners_one_gets_the_run(store: Store) -> None:
    run_id = queue_run(store)
    got: list[runs.Lease | None] = []
    at_once(*((lambda n=n: got.append(take_lease(store, f"learner {n}"))) for n in range(6)))
    assert [lease.run_id for lease in got if lease] == [run_id]


def test_of_many_clocks_one_starts_the_run_of_a_tick(store: Store) -> None:
    made: list[object] = []

    def tick() -> None:
        with store.begin() as tx:
            made.append(runs.queue_run(tx, "2026-11-21T10:00", "time", "auto", {}))

    at_once(*[tick] * 6)
    assert len([run for run in made if run is not None]) == 1


def test_who_asks_while_a_run_waits_gets_that_one_with_what_is_wished(store: Store) -> None:
    def ask(method: str | None = None, promote: bool | None = None) -> tuple[str, bool, str, dict[str, object]]:
        with store.begin() as tx:
            run, is_new = runs.ask_for_run(tx, method, promote)
            return run.id, is_new, run.method, run.options

    first, *rest = ask("sft")
    assert rest == [True, "sft", {}]
    assert ask() == (first, False, "sft", {})
    assert ask("dpo", promote=False) == (first, False, "dpo", {"promote": False})

    lease = take_lease(store)
    assert lease is not None and lease.run_id == first
    second, *rest = ask()  # one may wait while one is under way
    assert second != first and rest == [True, "auto", {}]
    with store.begin() as tx:
        runs.release_run(tx, first, lease.fence)  # given back, it waits again, but it has begun
    assert ask("sft") == (second, False, "sft", {})
    with store.read() as tx:
        assert len(runs.list_runs(tx)) == 2


def test_of_many_who_ask_at_once_one_queues_the_run(store: Store) -> None:
    asked: list[tuple[str, bool]] = []

    def press() -> None:
        with store.begin() as tx:
            run, is_new = runs.ask_for_run(tx)
            asked.append((run.id, is_new))

    at_once(*[press] * 6)
    assert len({run_id for run_id, _ in asked}) == 1 and sum(is_new for _, is_new in asked) == 1


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["cancelled", "cancelled under way", "succeeded"])
def test_a_run_that_ends_in_the_moment_that_somebody_would_take_it_stays_so(
    postgres_server: PostgresServer, how: str
) -> None:
    """Whoever would take it has to wait for whoever ends it, and sees then that it is over."""
    with closing(Store.open(postgres_server.fresh_url())) as store, ThreadPoolExecutor(1) as other:
        run_id = queue_run(store)
        lease = None if how == "cancelled" else take_lease(store, seconds=EXPIRED)
        with store.begin() as tx:
            if lease is not None and how == "succeeded":
                runs.finish_run(tx, run_id, lease.fence, "succeeded", "All gates passed.")
            else:
                runs.cancel_run(tx, run_id)
            tx.flush()
            taken = other.submit(take_lease, store)
            until(lambda: _is_waited_for(store))
        assert taken.result(30) is None
        assert state_of(store, run_id) == how.split()[0]


@pytest.mark.postgres
def test_who_asks_for_a_run_in_the_moment_that_it_is_cancelled_gets_another(postgres_server: PostgresServer) -> None:
    with closing(Store.open(postgres_server.fresh_url())) as store, ThreadPoolExecutor(1) as other:
        run_id = queue_run(store)

        def ask() -> tuple[str, bool]:
            with store.begin() as tx:
                run, is_new = runs.ask_for_run(tx, "sft", promote=False)
                return run.id, is_new

        with store.begin() as tx:
            runs.cancel_run(tx, run_id)
            tx.flush()
            asked = other.submit(ask)
            until(lambda: _is_waited_for(store))
        another, is_new = asked.result(30)
        assert is_new and (state_of(store, run_id), state_of(store, another)) == ("cancelled", "queued")


def _is_waited_for(store: Store) -> bool:
    """Whether a transaction waits for another one."""
    with store.read() as tx:
        return bool(tx.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_several_writes_in_one_transaction_all_count(store: Store) -> None:
    run_id = queue_run(store)
    with store.begin() as tx:
        lease = runs.lease_run(tx, "learner", 60, MAX_ATTEMPTS)
        assert lease is not None
        runs.set_snapshot(tx, run_id, lease.fence, "abc", 7, ["fb-1", "fb-2", "fb-1"], "v1")
        runs.progress(tx, run_id, lease.fence, "train", 3, 9)
        assert runs.heartbeat(tx, run_id, lease.fence, 60)
        runs.finish_run(tx, run_id, lease.fence, "succeeded", "All gates passed.", "v2")
    with store.read() as tx:
        run = runs.get_run(tx, run_id)
    assert run is not None
    assert (run.state, run.phase, run.step, run.steps, run.adapter, run.parent, run.snapshot_hash) == (
        "succeeded", "train", 9, 9, "v2", "v1", "abc",
    )  # fmt: skip


def test_an_unknown_run_is_not_found(store: Store) -> None:
    with store.begin() as tx:
        assert runs.get_run(tx, "run-x") is None
        assert not runs.heartbeat(tx, "run-x", 1, 10)
        with pytest.raises(NotFound, match="no run 'run-x'"):
            runs.cancel_run(tx, "run-x")
        with pytest.raises(LeaseLost):
            runs.progress(tx, "run-x", 1, "train", 1, 1)


def test_runs_are_listed_newest_first_page_by_page(store: Store) -> None:
    made = [queue_run(store) for _ in range(5)]
    with store.read() as tx:
        first = [run.id for run in runs.list_runs(tx, limit=2)]
        rest = [run.id for run in runs.list_runs(tx, after=first[-1], limit=10)]
    assert first + rest == made[::-1]
