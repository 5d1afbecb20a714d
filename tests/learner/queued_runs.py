"""Runs of a home's queue: queued, leased, given back, looked at."""

from __future__ import annotations

from service.store.queries import runs
from service.store.tables import Run
from tests.learner.store_fixtures import Home


def queue(home: Home, **options: object) -> str:
    with home.store.begin() as tx:
        run = runs.queue_run(tx, f"command-{options}", "command", "auto", dict(options))
    assert run is not None
    return run.id


def lease(home: Home) -> runs.Lease:
    with home.store.begin() as tx:
        leased = runs.lease_run(tx, "test", 60.0, 5)
    assert leased is not None
    return leased


def give_back(home: Home, leased: runs.Lease) -> None:
    with home.store.begin() as tx:
        runs.release_run(tx, leased.run_id, leased.fence, died=True)


def the_run(home: Home, run_id: str) -> Run:
    with home.store.read() as tx:
        run = runs.get_run(tx, run_id)
    assert run is not None
    return run


def all_runs(home: Home) -> list[Run]:
    with home.store.read() as tx:
        return list(runs.list_runs(tx))
