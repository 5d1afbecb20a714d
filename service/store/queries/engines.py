"""Which engines serve: those that the settings name, with what operators added and took out since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.settings.addresses import engine_address, engine_at, without_credentials
from service.store.clock import now
from service.store.tables import EngineChange


def wanted(tx: Session, named: Sequence[str]) -> tuple[str, ...]:
    """The URLs of the engines that are to serve. `named`: those of the settings."""
    changes = {engine_at(url): (url, change.is_wanted) for url, change in _changes(tx)}
    out = {engine for engine, (_, is_wanted) in changes.items() if not is_wanted}
    own = [url for url in named if engine_at(url) not in out]
    known = out.union(map(engine_at, own))
    return *own, *(url for engine, (url, _) in changes.items() if engine not in known)


def add(tx: Session, url: str, named: Sequence[str], actor: str) -> None:
    """Have one more engine serve. Raises Conflict where it is to serve already."""
    if (known := _known(url, wanted(tx, named))) is not None:
        also = "" if known == url else f", as {known}"
        raise Conflict(f"{url} is one of the engines already{also}.", "`hone engines list` shows how it is.")
    _change(tx, url, True, actor)


def remove(tx: Session, url: str, named: Sequence[str], actor: str) -> None:
    """Have an engine serve no more. Raises NotFound where it isn't to serve, Conflict for the last one."""
    engines = wanted(tx, named)
    known = _known(url, engines)
    if known is None:
        raise NotFound(f"{url} is none of the engines.", "`hone engines list` shows them.")
    if len(engines) == 1:
        raise Conflict(f"{url} is the only engine.", "Add another one first.")
    _change(tx, known, False, actor)


def _known(url: str, engines: Sequence[str]) -> str | None:
    """What the engine at `url` is called among these."""
    return next((one for one in engines if engine_at(one) == engine_at(url)), None)


def _changes(tx: Session) -> Iterator[tuple[str, EngineChange]]:
    """What operators changed, the oldest first, by addresses that may be told; what could never be called is left out:
    both were kept once."""
    for change in tx.scalars(select(EngineChange).order_by(EngineChange.changed_at, EngineChange.url)):
        with suppress(ValueError):
            yield engine_address(without_credentials(change.url)), change


def _change(tx: Session, url: str, is_wanted: bool, actor: str) -> None:
    before = [change for told, change in _changes(tx) if engine_at(told) == engine_at(url)]
    change = tx.get(EngineChange, url) or (before[-1] if before else EngineChange())
    change.url, change.is_wanted, change.changed_by, change.changed_at = url, is_wanted, actor, now()
    tx.add(change)
