"""Adapters: their states, and the history of who changed what and why.

    publishing ──► candidate ──► canary ──► live ──► retired ──► live (rollback)
         └─────────────┴───────────┴──────────────────┴────► rejected, for ever

What serves (`queries.serving`) decides the states from candidate on. Everything that changes something also writes an
event, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session, defer

from service.errors import Conflict, NotFound
from service.store.clock import now
from service.store.prepared import Prepared, Tx
from service.store.session import serialise
from service.store.tables import Adapter, AdapterEventRow

BASE = "base"
"""What serves without any adapter."""
BASE_IS_NO_ADAPTER = "There is no adapter 'base': it is what serves without one."

ROLLOUT, LEARNER, GATE = ACTORS = ("rollout", "learner", "gate")
"""The actors' names for what the service, a run and the gate do by themselves. No key has such a name."""

_WITHOUT_REPORTS = select(Adapter).options(defer(Adapter.report, raiseload=True)).order_by(Adapter.number.desc())
_STATE = Prepared(select(Adapter.state).where(Adapter.number == bindparam("of")))


def reserve_adapter(tx: Session, parent: str | None, run_id: str | None) -> Adapter:
    """A number, and so a name, that was never used and never will be again; in state publishing."""
    adapter = Adapter(state="publishing", parent=parent, run_id=run_id, report={}, reason="", created_at=now())
    tx.add(adapter)
    tx.flush()
    return adapter


def register_candidate(tx: Session, name: str, manifest_hash: str, report: dict[str, Any], reason: str) -> Adapter:
    """The folder is complete: from now on the adapter exists. Raises Conflict when its publication was given up."""
    adapter = get_locked(tx, name)
    if adapter.state != "publishing":
        raise Conflict(f"Adapter {name} is {adapter.state}, not publishing.", "Publish it again under a new number.")
    adapter.manifest_hash, adapter.report = manifest_hash, report
    move(tx, adapter, "candidate", "published", f"run {adapter.run_id}" if adapter.run_id else "import", reason)
    return adapter


def abandon_publishing(
    tx: Session,
    run_id: str | None,
    reason: str = "Its publication was interrupted.",
    before: datetime | None = None,
) -> list[str]:
    """Reject what a run (None: every run and import) began to publish and never registered; returns the names.

    `before`: only what was begun before that.
    """
    serialise(tx, "adapters")
    query = select(Adapter).where(Adapter.state == "publishing").order_by(Adapter.number)
    query = query.where(Adapter.run_id == run_id) if run_id is not None else query
    abandoned = tx.scalars(query.where(Adapter.created_at < before) if before is not None else query).all()
    for adapter in abandoned:
        move(tx, adapter, "rejected", "rejected", ROLLOUT, reason)
    return [adapter.name for adapter in abandoned]


def get_adapter(tx: Session, name: str) -> Adapter | None:
    number = number_of(name)
    return tx.get(Adapter, number) if number is not None else None


def lineage(tx: Session, name: str) -> list[Adapter]:
    """An adapter and those that it comes from, the newest first."""
    found, adapter = list[Adapter](), get_adapter(tx, name)
    while adapter is not None:
        found.append(adapter)
        adapter = get_adapter(tx, adapter.parent) if adapter.parent is not None else None
    return found


def get_locked(tx: Session, name: str) -> Adapter:
    """As it is now, with all others kept from changing until the transaction ends. Raises NotFound."""
    serialise(tx, "adapters")
    number = number_of(name)
    adapter = tx.get(Adapter, number, populate_existing=True) if number is not None else None
    if adapter is None:
        raise NotFound(f"There is no adapter {name!r}.", "`hone adapters list` shows them.")
    return adapter


def state_of(tx: Tx, name: str) -> str | None:
    """The state of an adapter; None where there is no such adapter."""
    number = number_of(name)
    found = _STATE.run(tx, {"of": number}).fetchone() if number is not None else None
    return found[0] if found is not None else None


def list_adapters(tx: Session) -> Sequence[Adapter]:
    """All, newest first, without their reports, which are long: to read one of those raises."""
    return tx.scalars(_WITHOUT_REPORTS).all()


def list_with_figures(tx: Session, figures: Sequence[str]) -> list[tuple[Adapter, dict[str, Any]]]:
    """The same, each with those of the `figures` that its report has. The database takes them out of it."""
    rows = tx.execute(_WITHOUT_REPORTS.add_columns(*(Adapter.report[figure] for figure in figures)))
    return [
        (adapter, {figure: value for figure, value in zip(figures, values, strict=True) if value is not None})
        for adapter, *values in rows
    ]


def events(tx: Session, name: str | None = None, limit: int = 200) -> Sequence[AdapterEventRow]:
    """What was done to one adapter, or to all, newest first."""
    query = select(AdapterEventRow).order_by(AdapterEventRow.id.desc()).limit(limit)
    return tx.scalars(query.where(AdapterEventRow.adapter == name) if name is not None else query).all()


def move(tx: Session, adapter: Adapter, state: str, action: str, actor: str, reason: str) -> None:
    """Put an adapter into another state, and tell its history."""
    adapter.state, adapter.reason = state, reason
    note(tx, adapter.name, action, reason, actor)


def note(tx: Session, name: str, action: str, reason: str, actor: str = ROLLOUT) -> None:
    """Add to the history of an adapter, or of `base`."""
    tx.add(AdapterEventRow(at=now(), adapter=name, action=action, actor=actor, reason=reason))
    tx.flush()


def number_of(name: str) -> int | None:
    """12 for `v12`; None for everything that is no version's name."""
    digits = name[1:]
    if name[:1] != "v" or not (digits.isascii() and digits.isdigit()) or digits[0] == "0" or len(digits) > 9:
        return None
    return int(digits)
