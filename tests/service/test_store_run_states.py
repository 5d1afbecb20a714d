"""The runs table as a state machine: whatever learners do, in whatever order."""

from __future__ import annotations

from dataclasses import dataclass

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

from service.errors import Conflict, LeaseLost
from service.store.identifiers import new_id
from service.store.queries import runs
from service.store.session import Store
from tests.service.queued_runs import EXPIRED, MAX_ATTEMPTS, queue_run, take_lease


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
        self.expected[queue_run(self.store, tick)] = Expected()

    @rule(data=st.data())
    def queue_a_tick_again(self, data: st.DataObject) -> None:
        if self.ticks:
            with self.store.begin() as tx:
                assert runs.queue_run(tx, data.draw(st.sampled_from(self.ticks)), "time", "auto", {}) is None

    @precondition(lambda self: self.expected)
    @rule(expired=st.booleans())
    def lease(self, expired: bool) -> None:
        lease = take_lease(self.store, seconds=EXPIRED if expired else 60.0)
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


def test_whatever_learners_do_runs_keep_to_their_state_machine(store: Store) -> None:
    class Machine(RunsMachine):
        pass

    Machine.store = store
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15 if "postgresql" in str(store.url) else 30,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
        ),
    )
