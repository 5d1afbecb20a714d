"""The few statements that every chat runs. On SQLite they are compiled once and handed to the driver itself.

What SQLAlchemy does between a statement and the driver takes several times as long as SQLite takes to run it. In a
session, and so on PostgreSQL, a prepared statement is one like every other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from sqlalchemy import Insert, Select, Update
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from service.store.json_text import as_json

Tx = Session | sqlite3.Connection
"""What prepared statements run in."""

_DIALECT = sqlite.dialect(json_serializer=as_json)


class Prepared:
    """Every value that the statement takes has a name, and columns come back as the driver reads them."""

    def __init__(self, statement: Select[Any] | Insert | Update) -> None:
        self._statement = statement

    def run(self, tx: Tx, *rows: Mapping[str, Any]) -> Any:
        """Run it once with the values of each row; a cursor over what was found."""
        if isinstance(tx, Session):
            return tx.execute(self._statement, rows[0] if len(rows) == 1 else rows)
        text, bind = self._compiled
        return tx.execute(text, bind(rows[0])) if len(rows) == 1 else tx.executemany(text, map(bind, rows))

    @cached_property
    def _compiled(self) -> tuple[str, Callable[[Mapping[str, Any]], list[Any]]]:
        compiled = self._statement.compile(dialect=_DIALECT)
        types = [(name, compiled.binds[name].type.dialect_impl(_DIALECT)) for name in compiled.positiontup or ()]
        converters = [(name, type_.bind_processor(_DIALECT)) for name, type_ in types]

        def bind(row: Mapping[str, Any]) -> list[Any]:
            return [convert(row[name]) if convert else row[name] for name, convert in converters]

        return str(compiled), bind
