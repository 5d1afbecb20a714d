"""Runs of a store's queue: queued, leased, looked at."""

from __future__ import annotations

from service.store.identifiers import new_id
from service.store.queries import runs
from service.store.session import Store

MAX_ATTEMPTS = 3
EXPIRED = -1.0  # seconds that a lease lasts: it is over at once


def queue_run(store: Store, tick: str | None = None) -> str:
    with store.begin() as tx:
        run = runs.queue_run(tx, tick or new_id("tick"), "command", "auto", {})
    assert run is not None
    return run.id


def take_lease(store: Store, worker: str = "learner", seconds: float = 60.0) -> runs.Lease | None:
    with store.begin() as tx:
        return runs.lease_run(tx, worker, seconds, MAX_ATTEMPTS)


def state_of(store: Store, run_id: str) -> str:
    with store.read() as tx:
        run = runs.get_run(tx, run_id)
    assert run is not None
    return run.state
