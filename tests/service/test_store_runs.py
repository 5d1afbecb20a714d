"""The runs table as a state machine: unique ticks, leases, fences, bounded attempts; and what snapshots record."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from service.errors import Conflict, LeaseLost, NotFound
from service.store.identifiers import new_id
from service.store.queries import feedback, runs
from service.store.session import Store
from service.wire import Thumb
from tests.fixtures.stores import PostgresServer, add_chat
from tests.fixtures.threads import at_once
from tests.fixtures.waiting import until

MAX_ATTEMPTS = 3
EXPIRED = -1.0


def _queue(store: Store, tick: str | None = None) -> str:
    with store.begin() as tx:
        run = runs.queue_run(tx, tick or new_id("tick"), "command", "auto", {})
    assert run is not None
    return run.id


def _lease(store: Store, worker: str = "learner", seconds: float = 60.0) -> runs.Lease | None:
    with store.begin() as tx:
        return runs.lease_run(tx, worker, seconds, MAX_ATTEMPTS)


def _state(store: Store, run_id: str) -> str:
    with store.read() as tx:
        run = runs.get_run(tx, run_id)
    assert run is not None
    return run.state


@dataclass
class Expected:
    state: str = "queued"
    fence: int = 0
    attempt: int = 0
    furthest: int = -1
    forgiven: frozenset[int] = frozenset()
    alive: bool = False  # its lease has not expired


class RunsMachine(RuleBasedStateMachine):
    """Learners that come, die, wake up late and write with whatever fence they once had."""

    store: Store

    @initialize()
    def clear(self) -> None:
        self.expected: dict[str, Expected] = {}
        self.leases: list[tuple[str, int]] = []
        self.ticks: list[str] = []
        with self.store.begin() as tx:
            for run in runs.list_runs(tx, limit=1000):
                if run.state in ("queued", "running"):
                    runs.cancel_run(tx, run.id)

    @rule()
    def queue(self) -> None:
        tick = new_id("tick")
        self.ticks.append(tick)
        self.expected[_queue(self.store, tick)] = Expected()

    @rule(data=st.data())
    def queue_a_tick_again(self, data: st.DataObject) -> None:
        if self.ticks:
            with self.store.begin() as tx:
                assert runs.queue_run(tx, data.draw(st.sampled_from(self.ticks)), "time", "auto", {}) is None

    @precondition(lambda self: self.expected)
    @rule(expired=st.booleans())
    def lease(self, expired: bool) -> None:
        lease = _lease(self.store, seconds=EXPIRED if expired else 60.0)
        wanted = self._lease_expected()
        assert (lease.run_id if lease else None) == wanted
        if lease is not None:
            run = self.expected[lease.run_id]
            run.state, run.alive = "running", not expired
            run.fence += 1
            run.attempt += 1
            assert lease.fence == run.fence
            self.leases.append((lease.run_id, lease.fence))

    def _lease_expected(self) -> str | None:
        if any(run.state == "running" and run.alive for run in self.expected.values()):
            return None
        for run_id, run in self.expected.items():
            if run.state in ("queued", "running"):
                if run.attempt - len(run.forgiven) < MAX_ATTEMPTS:
                    return run_id
                run.state = "failed"
        return None

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), alive=st.booleans())
    def heartbeat(self, data: st.DataObject, alive: bool) -> None:
        run_id, fence = data.draw(st.sampled_from(self.leases))
        with self.store.begin() as tx:
            held = runs.heartbeat(tx, run_id, fence, 60.0 if alive else EXPIRED)
        assert held == self._holds(run_id, fence)
        if held:
            self.expected[run_id].alive = alive

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), step=st.integers(0, 100))
    def progress(self, data: st.DataObject, step: int) -> None:
        run_id, fence = data.draw(st.sampled_from(self.leases))
        before = self._row(run_id)
        try:
            with self.store.begin() as tx:
                runs.progress(tx, run_id, fence, "train", step, 100, "sft")
        except LeaseLost:
            assert not self._holds(run_id, fence)
            assert self._row(run_id) == before
        else:
            assert self._holds(run_id, fence)
            assert self._row(run_id)[-2:] == ("train", step)
            run = self.expected[run_id]
            if step > run.furthest:
                run.furthest = step
                run.forgiven |= {fence} if run.attempt > 1 else frozenset()

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), ending=st.sampled_from(["succeeded", "rejected", "nothing_to_learn", "failed"]))
    def finish(self, data: st.DataObject, ending: runs.Ending) -> None:
        run_id, fence = data.draw(st.sampled_from(self.leases))
        if self._refused_or_done(run_id, fence, lambda tx: runs.finish_run(tx, run_id, fence, ending, "Because.")):
            self.expected[run_id].state = ending

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        run_id, fence = data.draw(st.sampled_from(self.leases))
        if self._refused_or_done(run_id, fence, lambda tx: runs.release_run(tx, run_id, fence)):
            run = self.expected[run_id]
            run.state = "queued"
            run.attempt, run.forgiven = run.attempt - 1, run.forgiven - {fence}

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.expected:
            run_id = data.draw(st.sampled_from(sorted(self.expected)))
            run = self.expected[run_id]
            try:
                with self.store.begin() as tx:
                    runs.cancel_run(tx, run_id)
            except Conflict:
                assert run.state not in ("queued", "running")
            else:
                assert run.state in ("queued", "running")
                run.state = "cancelled"
                run.fence += 1

    @invariant()
    def the_store_agrees(self) -> None:
        for run_id, run in self.expected.items():
            assert self._row(run_id)[:3] == (run.state, run.fence, run.attempt)
        assert sum(run.state == "running" for run in self.expected.values()) <= 1

    def _holds(self, run_id: str, fence: int) -> bool:
        return self.expected[run_id].state == "running" and self.expected[run_id].fence == fence

    def _row(self, run_id: str) -> tuple[object, ...]:
        with self.store.read() as tx:
            run = runs.get_run(tx, run_id)
        assert run is not None
        return (run.state, run.fence, run.attempt, run.leased_by, run.message, run.phase, run.step)

    def _refused_or_done(self, run_id: str, fence: int, write: object) -> bool:
        try:
            with self.store.begin() as tx:
                write(tx)  # type: ignore[operator]  # a lambda of a query
        except LeaseLost:
            assert not self._holds(run_id, fence)
            return False
        assert self._holds(run_id, fence)
        return True


def test_a_learner_that_was_taken_over_can_write_nothing_any_more(store: Store) -> None:
    run_id = _queue(store)
    old, new = _lease(store, seconds=EXPIRED), _lease(store)
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


def test_a_learner_that_died_costs_its_run_an_attempt_and_one_that_stopped_does_not(store: Store) -> None:
    run_id = _queue(store)
    for died, attempt in ((False, 1), (True, 1), (True, 2), (False, 3)):
        lease = _lease(store)
        assert lease is not None and lease.run.attempt == attempt
        with store.begin() as tx:
            runs.release_run(tx, run_id, lease.fence, died=died)


def test_whatever_learners_do_runs_keep_to_their_state_machine(store: Store) -> None:
    class Machine(RunsMachine):
        pass

    Machine.store = store
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15 if "postgresql" in str(store.url) else 30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_of_many_learners_one_gets_the_run(store: Store) -> None:
    run_id = _queue(store)
    got: list[runs.Lease | None] = []
    at_once(*((lambda n=n: got.append(_lease(store, f"learner {n}"))) for n in range(6)))
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

    lease = _lease(store)
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
        run_id = _queue(store)
        lease = None if how == "cancelled" else _lease(store, seconds=EXPIRED)
        with store.begin() as tx:
            if lease is not None and how == "succeeded":
                runs.finish_run(tx, run_id, lease.fence, "succeeded", "All gates passed.")
            else:
                runs.cancel_run(tx, run_id)
            tx.flush()
            taken = other.submit(_lease, store)
            until(lambda: _is_waited_for(store))
        assert taken.result(30) is None
        assert _state(store, run_id) == how.split()[0]


@pytest.mark.postgres
def test_who_asks_for_a_run_in_the_moment_that_it_is_cancelled_gets_another(postgres_server: PostgresServer) -> None:
    with closing(Store.open(postgres_server.fresh_url())) as store, ThreadPoolExecutor(1) as other:
        run_id = _queue(store)

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
        assert is_new and (_state(store, run_id), _state(store, another)) == ("cancelled", "queued")


def _is_waited_for(store: Store) -> bool:
    """Whether a transaction waits for another one."""
    with store.read() as tx:
        return bool(tx.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_a_run_whose_process_died_too_often_fails_with_the_reason_and_the_next_is_taken(store: Store) -> None:
    first, second = _queue(store), _queue(store)
    for _ in range(MAX_ATTEMPTS):
        lease = _lease(store, seconds=EXPIRED)
        assert lease is not None and lease.run_id == first
        with store.begin() as tx:
            runs.progress(tx, first, lease.fence, "train", 1, 10)
    lease = _lease(store)
    assert lease is not None and lease.run_id == second
    with store.read() as tx:
        failed = runs.get_run(tx, first)
    assert failed is not None
    assert (failed.state, failed.message) == ("failed", "Its process died 3 times, last in phase 'train'.")


def test_an_attempt_that_got_further_than_all_before_it_does_not_count(store: Store) -> None:
    run_id = _queue(store)

    def attempt(*reached: tuple[str | None, int]) -> tuple[int, int]:
        """Begins, comes so far, and dies; returns which attempt that was, and how many were in vain."""
        lease = _lease(store, seconds=EXPIRED)
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
    assert _lease(store) is None
    assert _state(store, run_id) == "failed"


def test_a_run_that_dies_at_one_place_fails_after_as_many_attempts_as_ever(store: Store) -> None:
    run_id, begun = _queue(store), 0
    while (lease := _lease(store, seconds=EXPIRED)) is not None:
        begun += 1
        assert begun <= MAX_ATTEMPTS
        with store.begin() as tx:
            for step in range(8):
                runs.progress(tx, run_id, lease.fence, "train", step, 100, "sft")
    assert (begun, _state(store, run_id)) == (MAX_ATTEMPTS, "failed")


def test_an_attempt_that_got_further_and_was_stopped_in_order_is_as_if_it_had_not_been(store: Store) -> None:
    run_id = _queue(store)
    for died, step, counted in ((True, 1, (1, 1)), (False, 2, (1, 1)), (True, 3, (2, 1)), (True, 3, (3, 2))):
        lease = _lease(store)
        assert lease is not None
        with store.begin() as tx:
            runs.progress(tx, run_id, lease.fence, "train", step, 9, "sft")
            runs.release_run(tx, run_id, lease.fence, died=died)
            run = runs.get_run(tx, run_id)
            assert run is not None and (run.attempt, runs.in_vain(run)) == counted


def test_several_writes_in_one_transaction_all_count(store: Store) -> None:
    run_id = _queue(store)
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
        "succeeded", "train", 3, 9, "v2", "v1", "abc",
    )  # fmt: skip


def test_feedback_says_which_adapters_learned_from_it(store: Store) -> None:
    exchange_id = add_chat(store)
    run_id = _queue(store)
    lease = _lease(store)
    assert lease is not None
    with store.begin() as tx:
        given = feedback.add_feedback(tx, "name:ada", Thumb(exchange_id=exchange_id, good=True))
        later = feedback.add_feedback(tx, "name:ada", Thumb(exchange_id=exchange_id, good=False))
        assert feedback.stats(tx).since_last_run == 2
        position = feedback.last_position(tx) - 1
        runs.set_snapshot(tx, run_id, lease.fence, "abc", position, [given.id], None)
        runs.finish_run(tx, run_id, lease.fence, "succeeded", "All gates passed.", "v12")
    with store.read() as tx:
        learned = {stored.id: stored.learned_in for stored in feedback.list_feedback(tx, "name:ada")}
        assert learned == {given.id: ("v12",), later.id: ()}
        considered = {stored.id: stored.considered for stored in feedback.list_feedback(tx, "name:ada")}
        assert considered == {given.id: True, later.id: False}
        assert runs.last_learned_position(tx) == position
        assert feedback.stats(tx).since_last_run == 1


def _learn(store: Store, adapter: str, state: runs.Ending = "succeeded") -> None:
    """A run that learns all feedback that there is."""
    run_id, lease = _queue(store), _lease(store)
    assert lease is not None and lease.run_id == run_id
    with store.begin() as tx:
        position = feedback.last_position(tx)
        known = [row.id for row in feedback.active_feedback(tx, position)]
        runs.set_snapshot(tx, run_id, lease.fence, "abc", position, known, None)
        runs.finish_run(tx, run_id, lease.fence, state, "Measured.", adapter)


def test_feedback_names_the_first_and_the_newest_adapter_that_learned_it_as_it_is(store: Store) -> None:
    exchange_id = add_chat(store)
    with store.begin() as tx:
        given = feedback.add_feedback(tx, "name:ada", Thumb(exchange_id=exchange_id, good=True)).id
        other = feedback.add_feedback(tx, "name:ada", Thumb(exchange_id=exchange_id, good=True)).id

    def learned_in(feedback_id: str) -> tuple[str, ...]:
        with store.read() as tx:
            return feedback.get_feedback(tx, "name:ada", feedback_id).learned_in

    _learn(store, "v1", "rejected")
    assert learned_in(given) == ()
    for adapter, named in (("v2", ("v2",)), ("v3", ("v2", "v3")), ("v4", ("v2", "v4"))):
        _learn(store, adapter)
        assert learned_in(given) == learned_in(other) == named
    with store.begin() as tx:
        feedback.change_feedback(tx, "name:ada", given, Thumb(exchange_id=exchange_id, good=False))
    assert (learned_in(given), learned_in(other)) == ((), ("v2", "v4"))
    _learn(store, "v5", "rejected")
    _learn(store, "v6")
    assert (learned_in(given), learned_in(other)) == (("v6",), ("v2", "v6"))


def test_a_failed_or_cancelled_run_learned_nothing(store: Store) -> None:
    failed, cancelled = _queue(store), _queue(store)
    lease = _lease(store)
    assert lease is not None
    with store.begin() as tx:
        runs.set_snapshot(tx, failed, lease.fence, "abc", 5, [], None)
        runs.finish_run(tx, failed, lease.fence, "failed", "No memory.")
        runs.cancel_run(tx, cancelled)
        assert runs.last_learned_position(tx) == 0


def test_an_unknown_run_is_not_found(store: Store) -> None:
    with store.begin() as tx:
        assert runs.get_run(tx, "run-x") is None
        assert not runs.heartbeat(tx, "run-x", 1, 10)
        with pytest.raises(NotFound, match="no run 'run-x'"):
            runs.cancel_run(tx, "run-x")
        with pytest.raises(LeaseLost):
            runs.progress(tx, "run-x", 1, "train", 1, 1)


def test_runs_are_listed_newest_first_page_by_page(store: Store) -> None:
    made = [_queue(store) for _ in range(5)]
    with store.read() as tx:
        first = [run.id for run in runs.list_runs(tx, limit=2)]
        rest = [run.id for run in runs.list_runs(tx, after=first[-1], limit=10)]
    assert first + rest == made[::-1]
