"""Opening the store, and its two kinds of transaction: `begin()` writes, `read()` reads.

SQLite: WAL, `synchronous=FULL` (what was committed survives a power cut), foreign keys on. Writes of one process queue
for its one writing connection and begin with `BEGIN IMMEDIATE`, so that a transaction never fails half-way because
another process wrote first; only that connection moves the WAL into the database, and with `checkpoints=False` not even
that (SQLite below 3.51.3 can lose data when several processes do). Reading connections are `query_only`.

PostgreSQL: writes run at READ COMMITTED; what must happen one after another takes `serialise(tx, topic)` first. Reads
see one moment (REPEATABLE READ, read only).

A transaction is short: it is never open while a model computes or a network answers.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from service.errors import StoreError
from service.store.faults import store_error
from service.store.json_text import as_json
from service.store.migrate import migrate
from service.store.prepared import Tx

BUSY_SECONDS = 10
"""How long a write waits for other processes' writes before it fails."""


class Store:
    """An open database, safe to use from many threads. Make one with `Store.open`."""

    def __init__(self, url: URL, writer: Engine, reader: Engine) -> None:
        self.url = url
        self._writer = writer
        self._reader = reader
        # SQLite has one writing connection.
        self._turn: AbstractContextManager[Any] = threading.Lock() if _is_sqlite(url) else nullcontext()

    @classmethod
    def open(cls, url: str, checkpoints: bool = True) -> Store:
        """Open the database at a SQLAlchemy URL, creating it or bringing it up to date.

        `checkpoints=False` is for every process but the service: it leaves moving the WAL into the database to it.
        Raises StoreError when it can't be opened or written, or when a newer version of Hone made it.
        """
        parsed = _parse(url)
        store = cls(parsed, *(_sqlite_engines(parsed, checkpoints) if _is_sqlite(parsed) else _server_engines(parsed)))
        try:
            with store._explained():
                migrate(store._writer)
        except BaseException:
            store.close()
            raise
        return store

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A write transaction: committed, durably, when the block ends; rolled back when it raises."""
        with self._explained(), self._turn, Session(self._writer, expire_on_commit=False) as tx, tx.begin():
            yield tx

    @contextmanager
    def begin_several(self) -> Iterator[Callable[[], AbstractContextManager[Session]]]:
        """A write transaction of several parts, each a session of its own: one that raises is undone, the others stay.

        When the block ends, all are committed with one wait for the disk.
        """
        with self._explained(), self._turn, self._writer.begin() as connection:

            @contextmanager
            def part() -> Iterator[Session]:
                with (
                    self._explained(),
                    Session(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as tx,
                    tx.begin(),
                ):
                    yield tx

            yield part

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read transaction: everything read in it is of one moment."""
        with self._explained(), Session(self._reader, expire_on_commit=False) as tx, tx.begin():
            yield tx

    @contextmanager
    def begin_plain(self) -> Iterator[Tx]:
        """A write transaction for prepared statements alone: on SQLite without all that a session does around it."""
        if not _is_sqlite(self.url):
            with self.begin() as tx:
                yield tx
            return
        with self._explained(), self._turn, self._driver as connection:  # which commits or rolls back
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def begin_several_plain(self) -> Iterator[Callable[[], AbstractContextManager[Tx]]]:
        """`begin_several` for prepared statements alone, on SQLite."""
        with self._explained(), self._turn, self._driver as connection:
            connection.execute("BEGIN IMMEDIATE")

            @contextmanager
            def part() -> Iterator[Tx]:
                with self._explained():
                    connection.execute("SAVEPOINT part")
                    try:
                        yield connection
                    except BaseException:
                        if connection.in_transaction:  # SQLite may have undone it all
                            connection.execute("ROLLBACK TO part")
                        raise
                    finally:
                        if connection.in_transaction:
                            connection.execute("RELEASE part")

            yield part

    def open_for_glances(self) -> sqlite3.Connection | None:
        """A connection for prepared statements that read a row or two by their keys; each sees a moment of its own.

        Where one would have to wait it raises sqlite3.Error. None for a database behind a network.
        """
        if not _is_sqlite(self.url):
            return None
        connection = sqlite3.connect(str(self.url.database), timeout=0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only=ON")
        return connection

    @cached_property
    def _driver(self) -> sqlite3.Connection:
        """SQLite's writing connection itself."""
        with closing(self._writer.raw_connection()) as lent:
            return cast(sqlite3.Connection, lent.driver_connection)

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            if explained := store_error(error, self.url.render_as_string(hide_password=True)):
                raise explained from error
            raise


def serialise(tx: Tx, topic: str) -> None:
    """Let nobody else who serialises on `topic` go on until this transaction ends.

    On SQLite a write transaction is alone anyway; on PostgreSQL this takes an advisory lock.
    """
    if isinstance(tx, Session) and tx.get_bind().dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(f"hone {topic}".encode())})


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"{url!r} isn't a database URL.", "Write sqlite:///PATH or postgresql://…") from error
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if not _is_sqlite(parsed) and parsed.get_backend_name() != "postgresql":
        raise StoreError(f"Hone can't use {parsed.drivername} databases.", "Write sqlite:///PATH or postgresql://…")
    return parsed


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _server_engines(url: URL) -> tuple[Engine, Engine]:
    writer = create_engine(
        url,
        pool_size=8,
        max_overflow=8,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        json_serializer=as_json,
    )
    reader = writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return writer, reader


def _sqlite_engines(url: URL, checkpoints: bool) -> tuple[Engine, Engine]:
    if not url.database or url.database == ":memory:":
        raise StoreError("A database in memory forgets everything.", "Write sqlite:///PATH.")
    _make_private(Path(url.database))
    pragmas = {"synchronous": "FULL", "foreign_keys": "ON", "mmap_size": "0"}
    writing = pragmas | ({} if checkpoints else {"wal_autocheckpoint": "0"})
    writer = _sqlite_engine(url, "BEGIN IMMEDIATE", writing, pool_size=1, max_overflow=0)
    reader = _sqlite_engine(url, "BEGIN", pragmas | {"query_only": "ON"}, pool_size=8, max_overflow=32)
    return writer, reader


def _make_private(path: Path) -> None:
    """Make a new database's file, and its folder if need be, readable by nobody else: it holds people's chats."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        raise StoreError(f"Can't make {path}: {error.strerror}.", "Choose another --home.") from error


def _sqlite_engine(url: URL, begin: str, pragmas: dict[str, str], pool_size: int, max_overflow: int) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=3 * BUSY_SECONDS,
        json_serializer=as_json,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        _use_wal(connection)
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite doesn't wait for other openers of a new file here, so this does."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
