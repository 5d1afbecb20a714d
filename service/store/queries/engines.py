"""Which engines serve: those that the settings name, with what operators added and took out since."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.store.clock import now
from service.store.tables import EngineChange


def wanted(tx: Session, named: Sequence[str]) -> tuple[str, ...]:
    """The URLs of the engines that are to serve. `named`: those of the settings."""
    changes = {change.url: change.is_wanted for change in list_changes(tx)}
    added = (url for url, is_wanted in changes.items() if is_wanted and url not in named)
    return *(url for url in named if changes.get(url, True)), *added


def list_changes(tx: Session) -> Sequence[EngineChange]:
    """What operators changed, the oldest first."""
    return tx.scalars(select(EngineChange).order_by(EngineChange.changed_at, EngineChange.url)).all()


def add(tx: Session, url: str, named: Sequence[str], actor: str) -> None:
    """Have one more engine serve. Raises Conflict where it is to serve already."""
    if url in wanted(tx, named):
        raise Conflict(f"{url} is one of the engines already.", "`hone engines list` shows how it is.")
    _change(tx, url, True, actor)


def remove(tx: Session, url: str, named: Sequence[str], actor: str) -> None:
    """Have an engine serve no more. Raises NotFound where it isn't to serve, Conflict for the last one."""
    engines = wanted(tx, named)
    if url not in engines:
        raise NotFound(f"{url} is none of the engines.", "`hone engines list` shows them.")
    if len(engines) == 1:
        raise Conflict(f"{url} is the only engine.", "Add another one first.")
    _change(tx, url, False, actor)


def _change(tx: Session, url: str, is_wanted: bool, actor: str) -> None:
    change = tx.get(EngineChange, url) or EngineChange(url=url)
    change.is_wanted, change.changed_by, change.changed_at = is_wanted, actor, now()
    tx.add(change)
