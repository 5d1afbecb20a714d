"""Writes that queue for the disk together: what is told to whom, and what is really there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, StoreError
from service.store.queries import conversations
from service.store.session import Store
from service.store.tables import Conversation
from service.transactions import MOST_TOGETHER, Transactions


class CountingStore(Store):
    """Knows how many transactions wrote how much; `fails` makes the next joint commit fail like a full disk."""

    commits: list[int]
    fails = False

    @contextmanager
    def begin_several(self) -> Iterator[object]:  # type: ignore[override]  # what it yields is passed on
        parts = 0
        with super().begin_several() as part:

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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountingStore]:
    opened = CountingStore.open(f"sqlite:///{tmp_path / 'hone.db'}")
    assert isinstance(opened, CountingStore)
    opened.commits = []
    yield opened
    opened.close()


def remember(tx: Session, conversation: str, caller: str) -> str:
    conversations.remember_conversation(tx, conversation, caller, "base")
    return conversation


def write_together(store: Store, *writes: tuple[str, str]) -> list[str | BaseException]:
    """What comes of (conversation, caller)s that all queue while the writer is busy."""
    busy = threading.Event()

    async def story() -> list[str | BaseException]:
        transactions = Transactions(store)
        holding = asyncio.create_task(transactions.write(lambda tx: busy.wait(30)))
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(transactions.write(remember, *write)) for write in writes]
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


def test_what_queues_is_committed_together_and_each_is_told_its_own(store: CountingStore) -> None:
    names = [f"talk-{number}" for number in range(10)]
    assert write_together(store, *((name, "ann") for name in names)) == names
    assert store.commits == [1, 10] and stored(store) == 10


def test_one_that_is_refused_is_undone_alone(store: CountingStore) -> None:
    first, refused, last = write_together(store, ("talk", "ann"), ("talk", "bob"), ("chat", "bob"))
    assert (first, last) == ("talk", "chat") and isinstance(refused, Conflict)
    assert store.commits == [1, 3] and stored(store) == 2


def test_when_all_together_fail_each_is_tried_alone(store: CountingStore) -> None:
    store.fails = True
    assert write_together(store, ("talk", "ann"), ("chat", "bob")) == ["talk", "chat"]
    assert store.commits == [1, 1, 1] and stored(store) == 2


def test_other_processes_wait_for_no_more_than_a_bounded_commit(store: CountingStore) -> None:
    names = [f"talk-{number}" for number in range(MOST_TOGETHER + 3)]
    assert write_together(store, *((name, "ann") for name in names)) == names
    assert store.commits == [1, MOST_TOGETHER, 3]
