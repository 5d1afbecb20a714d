"""The adapters that a chat may name, as `/v1/models` lists them: without their reports, as chat pages ask often."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from service.store.tables import Adapter


def made_at(tx: Session, states: Collection[str]) -> dict[str, datetime]:
    """When each adapter in one of these states was made, newest first."""
    columns = load_only(Adapter.number, Adapter.created_at, raiseload=True)
    query = select(Adapter).options(columns).where(Adapter.state.in_(states)).order_by(Adapter.number.desc())
    return {adapter.name: adapter.created_at for adapter in tx.scalars(query)}
