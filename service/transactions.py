"""Runs store queries in worker threads, so that the event loop doesn't wait for a disk; a glance is the one exception.

Writes to SQLite queue for one thread, as they queue for its one writing connection anyway: those that queue while the
disk is waited for are committed together. PostgreSQL, which does that by itself, gets several threads. Every query is
one call: it begins, runs and is committed before the call returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.orm import Session

from service.errors import StoreError
from service.store.prepared import Tx
from service.store.session import Store

P = ParamSpec("P")
T = TypeVar("T")
READERS = 8
MOST_TOGETHER = 64
"""Writes in one commit: other processes wait for it."""
FAILURE_SECONDS = 60.0
"""How long a write that failed is told of, if nothing was written since."""


@dataclass
class _Write:
    """Once asked for it is done, even if nobody waits any more to hear of it."""

    run: Callable[[Any], Any]
    is_plain: bool
    done: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def tell(self, result: Any = None, error: BaseException | None = None) -> None:
        """From the writing thread: how it went."""
        self.done.get_loop().call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.done.done():  # whoever asked was cancelled meanwhile
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


class Transactions:
    def __init__(self, store: Store) -> None:
        self.store = store
        self._is_alone = store.url.get_backend_name() == "sqlite"
        self._writers = ThreadPoolExecutor(1 if self._is_alone else READERS, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._glances = store.open_for_glances()
        self._queue: deque[_Write] = deque()
        self._failure: tuple[float, str] | None = None  # of the last write, if it failed

    def failure(self) -> str | None:
        """Why the store took nothing when something was last written, not long ago; None when it did."""
        failure = self._failure
        return failure[1] if failure is not None and time.monotonic() - failure[0] < FAILURE_SECONDS else None

    async def write(self, query: Callable[Concatenate[Session, P], T], *args: P.args, **options: P.kwargs) -> T:
        """`query(tx, …)` in a write transaction; when this returns, it is durable. Raises StoreError."""
        result: T = await self._write(_Write(lambda tx: query(tx, *args, **options), is_plain=False))
        return result

    async def write_plain(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **options: P.kwargs) -> T:
        """The same for a query of prepared statements alone, which costs less."""
        result: T = await self._write(_Write(lambda tx: query(tx, *args, **options), is_plain=True))
        return result

    async def glance(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **options: P.kwargs) -> T:
        """`query(tx, …)` of prepared statements that read a row or two by their keys. Raises StoreError.

        SQLite answers them in less time than a thread takes to wake, so that they are run here, in the loop.
        """
        if self._glances is not None:
            try:
                return query(self._glances, *args, **options)
            except sqlite3.Error:
                pass  # it is busy, or worse: a thread may wait for it, and says what is wrong
        return await self.read(query, *args, **options)

    async def read(self, query: Callable[Concatenate[Session, P], T], *args: P.args, **options: P.kwargs) -> T:
        """`query(tx, …)` in a read transaction. Raises StoreError."""

        def run() -> T:
            with self.store.read() as tx:
                return query(tx, *args, **options)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    def close(self) -> None:
        """Wait for what was begun, then close the threads; the store stays open."""
        self._writers.shutdown()
        self._readers.shutdown()
        if self._glances is not None:
            self._glances.close()

    async def _write(self, write: _Write) -> Any:
        self._queue.append(write)
        self._writers.submit(self._work)
        return await write.done

    def _work(self) -> None:
        """Write what is queued; somebody else may have done it already."""
        most = MOST_TOGETHER if self._is_alone else 1
        writes: list[_Write] = []
        while self._queue and len(writes) < most:
            writes.append(self._queue.popleft())
        if len(writes) == 1:
            self._write_one(writes[0])
        elif writes:
            self._write_together(writes)

    def _write_one(self, write: _Write) -> None:
        try:
            with self.store.begin_plain() if write.is_plain else self.store.begin() as tx:
                result = write.run(tx)
        except BaseException as error:
            if isinstance(error, StoreError):
                self._failure = time.monotonic(), str(error)
            write.tell(error=error)
        else:
            self._failure = None
            write.tell(result)

    def _write_together(self, writes: list[_Write]) -> None:
        """Each is told how it went once all are on the disk. One that is refused is undone alone."""
        results: list[tuple[_Write, Any]] = []
        refusals: list[tuple[_Write, Exception]] = []
        try:
            are_plain = all(write.is_plain for write in writes)
            with self.store.begin_several_plain() if are_plain else self.store.begin_several() as part:
                for write in writes:
                    try:
                        with part() as tx:
                            results.append((write, write.run(tx)))
                    except StoreError:
                        raise  # SQLite may have undone the whole transaction
                    except Exception as error:
                        refusals.append((write, error))
        except StoreError:
            for write in writes:
                self._write_one(write)
            return
        except BaseException as error:
            for write in writes:
                write.tell(error=error)
            return
        self._failure = None
        for write, refusal in refusals:
            write.tell(error=refusal)
        for write, result in results:
            write.tell(result)
