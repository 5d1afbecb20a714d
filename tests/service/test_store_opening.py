"""Opening a store: a new one, an older one, a newer one, and what is none."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from service.errors import StoreError
from service.settings import load_settings
from service.store.queries import constitutions, exchanges, keys, revisions, runs, serving
from service.store.session import Store
from service.store.tables import Table
from tests.fixtures.stores import PostgresServer, add_chat
from tests.fixtures.waiting import PATIENCE


def test_a_new_store_serves_the_base(store: Store) -> None:
    with store.read() as tx:
        desired = serving.desired_state(tx)
    assert (desired.live, desired.previous, desired.requested, desired.canary) == ("base", "base", None, None)
    assert desired.changed_at.tzinfo is not None


def test_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    engine = create_engine(store.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def _open_and_write(url: str, gate: object, worker: int) -> None:
    gate.wait()  # type: ignore[attr-defined]  # a barrier, whose class multiprocessing hides
    store = Store.open(url, checkpoints=worker == 0)
    for turn in range(3):
        with store.begin() as tx:
            keys.create_key(tx, "user", f"{worker} {turn}")
    store.close()


def _open_at_once(url: str, processes: int = 6) -> None:
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(processes)
    workers = [context.Process(target=_open_and_write, args=(url, gate, number)) for number in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert [worker.exitcode for worker in workers] == [0] * processes
    store = Store.open(url)
    with store.read() as tx:
        assert len(keys.list_keys(tx)) == 3 * processes
    store.close()


def test_processes_that_open_a_new_sqlite_database_at_once_all_succeed(tmp_path: Path) -> None:
    _open_at_once(f"sqlite:///{tmp_path / 'home' / 'hone.db'}")


@pytest.mark.postgres
def test_processes_that_open_a_new_postgres_database_at_once_all_succeed(postgres_server: PostgresServer) -> None:
    _open_at_once(postgres_server.fresh_url(migrated=False))


def test_a_database_from_a_newer_version_is_refused_and_left_alone(store_url: str) -> None:
    store = Store.open(store_url)
    with store.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(StoreError, match=r"revision 9999.*newer.*Upgrade Hone"):
        Store.open(store_url)
    engine = create_engine(store.url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


UNUSED = {
    "ix_exchanges_adapter": "exchanges (adapter)",
    "ix_exchanges_caller_id": "exchanges (caller, id)",
    "ix_exchanges_conversation_id": "exchanges (conversation_id)",
    "ix_runs_created_at": "runs (created_at)",
}
"""What the first revision had and no query uses."""


def test_a_database_of_the_first_revision_is_brought_up_to_date_and_keeps_what_it_holds(store_url: str) -> None:
    store = Store.open(store_url)
    exchange = add_chat(store)
    with store.begin() as tx:
        begun = runs.ask_for_run(tx)[0].id
        for column in ("base_sha256", "best_of"):
            tx.execute(text(f"ALTER TABLE exchanges DROP COLUMN {column}"))
        for column in ("furthest", "forgiven"):
            tx.execute(text(f"ALTER TABLE runs DROP COLUMN {column}"))
        for table in ("engine_changes", "revisions", "constitutions"):
            tx.execute(text(f"DROP TABLE {table}"))
        for index, place in UNUSED.items():
            tx.execute(text(f"CREATE INDEX {index} ON {place}"))
        tx.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    store.close()
    store = Store.open(store_url)
    with store.read() as tx:
        found = exchanges.get_exchange(tx, exchange)
        assert found is not None and (found.base, found.base_sha256, found.best_of) == ("sprout", None, None)
        indexes = {
            one["name"] for table in ("exchanges", "runs") for one in inspect(tx.connection()).get_indexes(table)
        }
        assert not indexes & UNUSED.keys() and "ix_runs_state_created" in indexes
        run = runs.get_run(tx, begun)
        assert run is not None and (run.attempt, run.furthest, run.forgiven) == (0, {}, [])
        assert constitutions.in_effect(tx) is None and revisions.revisions_of(tx, exchange) == []
    store.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "nonsense"])
def test_an_address_that_is_no_usable_database_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="sqlite:///PATH"):
        Store.open(url)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "hone.db"
    path.write_bytes(b"These are my notes. " * 100)
    with pytest.raises(StoreError, match="isn't a database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == b"These are my notes. " * 100


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StoreError, match="Choose another --home"):
        Store.open(f"sqlite:///{tmp_path / 'home' / 'hone.db'}")


def test_a_new_database_is_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = Store.open(f"sqlite:///{home / 'hone.db'}")
    with store.begin() as tx:
        keys.create_key(tx, "user", "ada")
    files = {path.name: path.stat().st_mode & 0o077 for path in [home, *home.iterdir()]}
    store.close()
    assert files == {"home": 0, "hone.db": 0, "hone.db-wal": 0, "hone.db-shm": 0}


@pytest.mark.parametrize("name", ["a b", "a%20b", "what?", "a#b", "ä", "a@b:c"])
def test_the_database_is_in_the_home_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    Store.open(load_settings(tmp_path / name, None, {}).store_url).close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "hone.db").is_file()


@pytest.mark.postgres
def test_a_server_that_is_gone_is_named_without_its_password(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"can't be reached.*server runs") as gone:
        Store.open(f"postgresql://hone:hush@/hone?host={tmp_path}")
    assert "hush" not in str(gone.value) and gone.value.retry_after is None
    with pytest.raises(StoreError, match=r"doesn't exist.*was created"):
        Store.open(postgres_server.url("nowhere"))
