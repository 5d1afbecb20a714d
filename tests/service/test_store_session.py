"""Opening, closing, refusing; what was committed is there; what fails says what to do."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from service.errors import StoreError
from service.settings import load_settings
from service.store.clock import now
from service.store.identifiers import new_id
from service.store.queries import adapters, constitutions, exchanges, keys, revisions, runs, serving
from service.store.session import Store
from service.store.tables import Key, Table
from tests.fixtures.stores import PostgresServer, add_chat
from tests.fixtures.threads import at_once
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
        for table in ("revisions", "constitutions"):
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


def test_a_full_database_says_so_and_goes_on_when_there_is_room(sqlite_store: Store) -> None:
    def fill() -> None:
        with sqlite_store.begin() as tx:
            for _ in range(200):
                tx.add(Key(prefix=new_id("k"), secret_hash="x" * 5000, role="user", name="a", created_at=now()))

    def limit_pages(most: int) -> None:
        with sqlite_store.begin() as tx:
            tx.execute(text(f"PRAGMA max_page_count={most}"))

    with sqlite_store.begin() as tx:
        keys.create_key(tx, "user", "ada")
        pages: int = tx.scalar(text("PRAGMA page_count")) or 0
    limit_pages(pages + 20)
    with pytest.raises(StoreError, match=r"is full.*Free some space"):
        fill()
    with sqlite_store.read() as tx:
        assert [key.name for key in keys.list_keys(tx)] == ["ada"]
    limit_pages(1 << 30)
    fill()


def test_a_disk_that_takes_no_more_bytes_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The limit on file sizes is the kernel's; the process that met it says so in one line and can be started again."""
    script = """
        import resource, sys
        from service.errors import StoreError
        from service.store.queries import adapters, serving
        from service.store.session import Store
        store = Store.open(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            while True:
                with store.begin() as tx:
                    adapters.note(tx, "base", "noted", "x" * 3000)
                print("acknowledged", flush=True)
        except StoreError as error:
            print(error)
    """
    url = f"sqlite:///{tmp_path / 'hone.db'}"
    done = _python(script, url)
    *acknowledged, last = done.stdout.splitlines()
    assert "The database" in last and "disk" in last.lower(), done.stderr
    store = Store.open(url)
    with store.read() as tx:
        assert len(adapters.events(tx, "base")) == len(acknowledged) > 0
    with store.begin() as tx:
        keys.create_key(tx, "user", "ada")
    store.close()


def test_a_read_only_home_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Store.open(f"sqlite:///{home / 'hone.db'}").close()
    script = """
        import sys
        from service.errors import StoreError
        from service.store.session import Store
        try:
            Store.open(sys.argv[1])
        except StoreError as error:
            print(error)
    """
    (home / "hone.db").chmod(0o444)
    home.chmod(0o555)
    try:
        done = _python(script, f"sqlite:///{home / 'hone.db'}", without_privileges=True)
    finally:
        home.chmod(0o755)
    assert "The database" in done.stdout and "user" in done.stdout, done.stdout + done.stderr
    assert "read" in done.stdout


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


@pytest.mark.postgres
def test_a_server_that_is_gone_is_named_without_its_password(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"can't be reached.*server runs") as gone:
        Store.open(f"postgresql://hone:hush@/hone?host={tmp_path}")
    assert "hush" not in str(gone.value) and gone.value.retry_after is None
    with pytest.raises(StoreError, match=r"doesn't exist.*was created"):
        Store.open(postgres_server.url("nowhere"))


def test_killed_while_writing_a_store_keeps_what_was_acknowledged_and_nothing_else(store_url: str) -> None:
    """Each transaction writes two keys; a SIGKILL at any moment must never leave one of two."""
    Store.open(store_url).close()
    acknowledged = 0
    for delay in (0.0, 0.003, 0.011, 0.029):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _write_pairs_for_ever(store_url, writer)
        os.close(writer)
        got = os.read(reader, 1)  # at least one pair is acknowledged
        threading.Event().wait(delay)
        os.kill(child, 9)
        os.waitpid(child, 0)
        while more := os.read(reader, 4096):
            got += more
        os.close(reader)
        acknowledged += len(got)
        store = Store.open(store_url)
        with store.read() as tx:
            names = [key.name for key in keys.list_keys(tx)]
        store.close()
        assert len(names) % 2 == 0 and names.count("first") == names.count("second")
        assert acknowledged <= len(names) // 2 <= acknowledged + 1
        acknowledged = len(names) // 2


def _write_pairs_for_ever(url: str, acknowledge: int) -> None:
    try:
        store = Store.open(url)
        while True:
            with store.begin() as tx:
                keys.create_key(tx, "user", "first")
                keys.create_key(tx, "user", "second")
            os.write(acknowledge, b".")
    finally:
        os._exit(1)


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


def _python(script: str, *arguments: str, without_privileges: bool = False) -> subprocess.CompletedProcess[str]:
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if without_privileges and os.geteuid() == 0 else []
    command = [*prefix, sys.executable, "-c", textwrap.dedent(script), *arguments]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=root)
