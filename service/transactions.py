"""Runs store queries in worker threads, so that the event loop never waits for a disk.

Writes to SQLite queue for one thread, as they queue for its one writing connection anyway; PostgreSQL gets several.
Every transaction is one call: it begins, runs and is committed before the call returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.orm import Session

from service.store.session import Store

P = ParamSpec("P")
T = TypeVar("T")
READERS = 8


class Transactions:
    def __init__(self, store: Store) -> None:
        self.store = store
        writers = 1 if store.url.get_backend_name() == "sqlite" else READERS
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")

    async def write(self, query: Callable[Concatenate[Session, P], T], *args: P.args, **options: P.kwargs) -> T:
        """`query(tx, …)` in a write transaction; when this returns, it is durable. Raises StoreError."""

        def run() -> T:
            with self.store.begin() as tx:
                return query(tx, *args, **options)

        return await asyncio.get_running_loop().run_in_executor(self._writers, run)

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
