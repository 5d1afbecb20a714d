"""What `/v1/models` reads of the adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import event

from service.routing import SERVABLE
from service.store.clock import now
from service.store.queries import adapters, models, serving
from service.store.session import Store


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every SQL statement that is run meanwhile."""
    noted: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        noted.append(statement)

    event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield noted
    finally:
        event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def test_what_can_be_asked_for_is_listed_newest_first_and_no_report_is_read(store: Store) -> None:
    began = now()
    with store.begin() as tx:
        names = [adapters.reserve_adapter(tx, None, None).name for _ in range(4)]
        for name in names[:3]:
            adapters.register_candidate(tx, name, "ab" * 32, {"share_won": 0.7}, "Passed every gate.")
        serving.set_state(tx, names[1], "rejected", "name:op", "Rude.")
    with store.read() as tx, statements() as asked:
        found = models.made_at(tx, SERVABLE)
    assert list(found) == [names[2], names[0]]  # neither what was rejected nor what is not published yet
    assert all(began <= moment <= now() for moment in found.values())
    assert asked and not any("report" in statement for statement in asked)
