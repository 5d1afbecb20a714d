"""Writes that queue for the disk together: what is told to whom, and what is really there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, StoreError
from service.store.prepared import Tx
from service.store.queries import conversations
from service.store.session import Store
from service.store.tables import Conversation
from service.transactions import MOST_TOGETHER, Transactions
from tests.fixtures.waiting import PATIENCE

Kind = Callable[..., Coroutine[Any, Any, Any]]
KINDS = pytest.mark.parametrize("kind", [Transactions.write, Transactions.write_plain])


class CountingStore(Store):
    """Knows how many transactions wrote how much; `fails` makes the next joint commit fail like a full disk."""

    commits: list[int]
    fails = False

    @contextmanager
    def begin_several(self) -> Iterator[Any]:
        with super().begin_several() as part:
            yield from self._counted(part)

    @contextmanager
    def begin_several_plain(self) -> Iterator[Any]:
        with super().begin_several_plain() as part:
            yield from self._counted(part)

    def _counted(self, part: Callable[[], Any]) -> Iterator[Any]:
        parts = 0

        def counted() -> object:
            nonlocal parts
            parts += 1
            return part()

        yield counted
        if self.fails:
            self.fails = False
            raise StoreError("The disk is full.")
        self.commits.append(parts)

    @contextmanager
    def begin(self) -> Iterator[Session]:
        with super().begin() as tx:
            yield tx
        self.commits.append(1)

    @contextmanager
    def begin_plain(self) -> Iterator[Tx]:
        with super().begin_plain() as tx:
            yield tx
        self.commits.append(1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountingStore]:
    opened = CountingStore.open(f"sqlite:///{tmp_path / 'hone.db'}")
    assert isinstance(opened, CountingStore)
    opened.commits = []
    yield opened
    opened.close()


def remember(tx: Tx, conversation: str, caller: str) -> str:
    conversations.remember_conversation(tx, conversation, caller, "base")
    return conversation


def write_together(store: Store, kind: Kind, *writes: tuple[str, str]) -> list[str | BaseException]:
    """What comes of (conversation, caller)s that all queue while the writer is busy."""
    busy = threading.Event()

    async def story() -> list[str | BaseException]:
        transactions = Transactions(store)
        holding = asyncio.create_task(transactions.write(lambda tx: busy.wait(PATIENCE)))
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(kind(transactions, remember, *write)) for write in writes]
        await asyncio.sleep(0)
        busy.set()
        assert await holding
        found = await asyncio.gather(*tasks, return_exceptions=True)
        transactions.close()
        return found

    return asyncio.run(story())


def stored(store: Store) -> int:
    with store.read() as tx:
        return tx.scalar(select(func.count()).select_from(Conversation)) or 0


@KINDS
def test_what_queues_is_committed_together_and_each_is_told_its_own(store: CountingStore, kind: Kind) -> None:
    names = [f"talk-{number}" for number in range(10)]
    assert write_together(store, kind, *((name, "ann") for name in names)) == names
    assert store.commits == [1, 10] and stored(store) == 10


@KINDS
def test_one_that_is_refused_is_undone_alone(store: CountingStore, kind: Kind) -> None:
    first, refused, last = write_together(store, kind, ("talk", "ann"), ("talk", "bob"), ("chat", "bob"))
    assert (first, last) == ("talk", "chat") and isinstance(refused, Conflict)
    assert store.commits == [1, 3] and stored(store) == 2


@KINDS
def test_when_all_together_fail_each_is_tried_alone(store: CountingStore, kind: Kind) -> None:
    store.fails = True
    assert write_together(store, kind, ("talk", "ann"), ("chat", "bob")) == ["talk", "chat"]
    assert store.commits == [1, 1, 1] and stored(store) == 2


@KINDS
def test_other_processes_wait_for_no_more_than_a_bounded_commit(store: CountingStore, kind: Kind) -> None:
    names = [f"talk-{number}" for number in range(MOST_TOGETHER + 3)]
    assert write_together(store, kind, *((name, "ann") for name in names)) == names
    assert store.commits == [1, MOST_TOGETHER, 3]


def test_a_write_is_done_even_if_nobody_waits_for_it_any_more(store: CountingStore) -> None:
    async def story() -> None:
        transactions, busy = Transactions(store), threading.Event()
        holding = asyncio.create_task(transactions.write(lambda tx: busy.wait(PATIENCE)))
        await asyncio.sleep(0)
        leaving = asyncio.create_task(transactions.write(remember, "talk", "ann"))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        busy.set()
        assert await holding
        transactions.close()

    asyncio.run(story())
    assert stored(store) == 1


def test_a_plain_write_is_told_why_it_was_refused(store: CountingStore) -> None:
    async def story() -> None:
        transactions = Transactions(store)
        await transactions.write_plain(conversations.remember_conversation, "talk", "ann", "base")
        with pytest.raises(Conflict):
            await transactions.write_plain(conversations.remember_conversation, "talk", "bob", "base")
        transactions.close()

    asyncio.run(story())
    assert stored(store) == 1


def test_a_glance_sees_what_another_process_has_just_committed(store: CountingStore) -> None:
    async def story() -> list[str | None]:
        transactions = Transactions(store)
        other = Store.open(str(store.url), checkpoints=False)
        seen = []
        for adapter in ("v1", "v2"):
            with other.begin() as tx:
                conversations.remember_conversation(tx, "talk", "ann", adapter)
            seen.append((await transactions.glance(conversations.desired_in, "talk", "ann")).began_with)
        other.close()
        transactions.close()
        return seen

    assert asyncio.run(story()) == ["v1", "v2"]


def test_a_glance_that_fails_is_tried_in_a_thread(store: CountingStore) -> None:
    async def story() -> str | None:
        transactions = Transactions(store)
        await transactions.write(remember, "talk", "ann")
        assert transactions._glances is not None
        transactions._glances.close()  # every use raises sqlite3.Error now, as where another process holds the database
        desired = await transactions.glance(conversations.desired_in, "talk", "ann")
        transactions.close()
        return desired.began_with

    assert asyncio.run(story()) == "base"


def test_the_last_writes_failure_is_told_until_one_succeeds_or_it_is_long_ago(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tx: Session) -> None:
        raise StoreError("The disk is full.")

    def accept(tx: Session) -> None:
        pass

    async def go() -> list[str | None]:
        transactions = Transactions(store)
        told = [transactions.failure()]
        for queries in ([refuse], [accept], [refuse], [accept, accept], [refuse]):
            await asyncio.gather(*map(transactions.write, queries), return_exceptions=True)
            told.append(transactions.failure())
        monkeypatch.setattr("service.transactions.FAILURE_SECONDS", 0.0)
        told.append(transactions.failure())
        transactions.close()
        return told

    full = "The disk is full."
    assert asyncio.run(go()) == [None, full, None, full, None, full, None]
