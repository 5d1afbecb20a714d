"""What snapshots record: which adapters learned from which feedback."""

from __future__ import annotations

from service.store.queries import feedback, runs
from service.store.session import Store
from service.wire import Thumb
from tests.fixtures.stores import add_chat
from tests.service.queued_runs import queue_run, take_lease


def test_feedback_says_which_adapters_learned_from_it(store: Store) -> None:
    exchange_id = add_chat(store)
    run_id = queue_run(store)
    lease = take_lease(store)
    assert lease is not None
    with store.begin() as tx:
        given = feedback.add_feedback(tx, "name:ada", Thumb(exchange_id=exchange_id, good=True))
        later = feedback.add_feedback(tx, "name:ada", Thumb(exchange_id=exchange_id, good=False))
        assert feedback.stats(tx).since_last_run == 2
        position = feedback.last_position(tx) - 1
        runs.set_snapshot(tx, run_id, lease.fence, "abc", position, [given.id], None)
        assert feedback.stats(tx).since_last_run == 1, "what is being learned from is no longer new"
        assert runs.last_learned_position(tx) == 0, "but it isn't learned yet"
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
    run_id, lease = queue_run(store), take_lease(store)
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
    failed, cancelled = queue_run(store), queue_run(store)
    lease = take_lease(store)
    assert lease is not None
    with store.begin() as tx:
        runs.set_snapshot(tx, failed, lease.fence, "abc", 5, [], None)
        runs.finish_run(tx, failed, lease.fence, "failed", "No memory.")
        runs.cancel_run(tx, cancelled)
        assert runs.last_learned_position(tx) == 0
