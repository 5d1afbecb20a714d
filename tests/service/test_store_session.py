"""Transactions: what was committed is there, what was not is not, and who writes at the same time waits."""

from __future__ import annotations

import sqlite3
import threading
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from service.errors import StoreError
from service.store.identifiers import new_id
from service.store.queries import adapters, keys, runs
from service.store.session import Store
from tests.fixtures.threads import at_once


def test_what_was_written_is_there_after_opening_again(store_url: str) -> None:
    first = Store.open(store_url)
    with first.begin() as tx:
        secret = keys.create_key(tx, "user", "ada")
    first.close()
    second = Store.open(store_url)
    with second.read() as tx:
        key = keys.find_key(tx, secret)
    second.close()
    assert key is not None and key.name == "ada"


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyError), store.begin() as tx:
        keys.create_key(tx, "user", "ada")
        raise KeyError
    with store.read() as tx:
        assert keys.list_keys(tx) == []


def test_reading_sees_one_moment_and_cannot_write(store: Store) -> None:
    with store.read() as tx:
        before = keys.list_keys(tx)
        with store.begin() as other:
            keys.create_key(other, "user", "ada")
        assert keys.list_keys(tx) == before == []
    with pytest.raises(StoreError, match="read-only"), store.read() as tx:
        keys.create_key(tx, "user", "eve")


def test_many_threads_write_without_losing_anything(store: Store) -> None:
    def write(number: int) -> None:
        for turn in range(5):
            with store.begin() as tx:
                runs.queue_run(tx, f"tick {number} {turn}", "command", "auto", {})

    at_once(*(partial(write, number) for number in range(8)))
    with store.read() as tx:
        assert len(runs.list_runs(tx, limit=100)) == 40


def test_sqlite_is_durable_in_wal_mode_and_checks_foreign_keys(sqlite_store: Store) -> None:
    with sqlite_store.begin() as tx:
        found = {name: tx.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_only_a_checkpointing_store_moves_the_wal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hone.db'}"
    service, learner = Store.open(url), Store.open(url, checkpoints=False)
    with service.begin() as tx:
        assert tx.scalar(text("PRAGMA wal_autocheckpoint")) == 1000
    with learner.begin() as tx:
        assert tx.scalar(text("PRAGMA wal_autocheckpoint")) == 0
    learner.close()
    service.close()


def test_a_write_waits_for_a_short_one_of_another_process(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'hone.db'}")
    other = sqlite3.connect(tmp_path / "hone.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, lambda: other.execute("COMMIT"))
    timer.start()
    with store.begin() as tx:
        keys.create_key(tx, "user", "ada")
    timer.join()
    other.close()
    store.close()


def test_a_write_that_others_keep_waiting_for_too_long_is_told_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.session.BUSY_SECONDS", 0.1)
    store = Store.open(f"sqlite:///{tmp_path / 'hone.db'}")
    other = sqlite3.connect(tmp_path / "hone.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"is busy.*Try again") as busy, store.begin() as tx:
        keys.create_key(tx, "user", "ada")
    assert busy.value.retry_after == 1
    other.close()
    store.close()


def test_text_that_no_database_takes_is_made_harmless(store: Store) -> None:
    with store.begin() as tx:
        adapters.note(tx, "base", "noted", "nul \x00 half \ud800 end")
    with store.read() as tx:
        reason = adapters.events(tx, "base")[0].reason
    assert reason.startswith("nul \ufffd half \ufffd") and reason.endswith("end")


def test_identifiers_sort_by_time_and_differ() -> None:
    made = [new_id("fb") for _ in range(2000)]
    assert len(set(made)) == 2000
    times = [identifier[: len("fb-") + 11] for identifier in made]
    assert times == sorted(times)
