"""Constitutions: every one that was put in effect, in order; the newest is."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.store.clock import now
from service.store.session import serialise
from service.store.tables import ConstitutionRow


def in_effect(tx: Session) -> ConstitutionRow | None:
    """The newest; None: the one that comes with Hone."""
    return tx.scalar(select(ConstitutionRow).order_by(ConstitutionRow.number.desc()).limit(1))


def get_constitution(tx: Session, name: str) -> ConstitutionRow | None:
    """That of a name such as `c3`; None where there is none."""
    number = name.removeprefix("c")
    is_a_name = name.startswith("c") and number.isascii() and number.isdigit() and len(number) < 10
    return tx.get(ConstitutionRow, int(number)) if is_a_name else None


def list_constitutions(tx: Session) -> Sequence[ConstitutionRow]:
    """Every one, newest first."""
    return tx.scalars(select(ConstitutionRow).order_by(ConstitutionRow.number.desc())).all()


def put_in_effect(
    tx: Session, text: str, sha256: str, created_by: str, note: str, built_in_sha256: str
) -> tuple[ConstitutionRow | None, bool]:
    """Put a checked file in effect: a new version, unless it says what the one in effect says.

    Returns what is in effect now (None: the one that comes with Hone) and whether it is new.
    """
    serialise(tx, "constitution")
    before = in_effect(tx)
    if sha256 == (before.sha256 if before is not None else built_in_sha256):
        return before, False
    row = ConstitutionRow(text=text, sha256=sha256, created_at=now(), created_by=created_by, note=note)
    tx.add(row)
    tx.flush()
    return row, True
