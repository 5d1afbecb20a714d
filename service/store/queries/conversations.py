"""Conversations: which adapter a conversation began with, so that it doesn't change its voice mid-way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table, bindparam, insert, literal_column, select, update

from service.errors import Conflict
from service.store.clock import now
from service.store.prepared import Prepared, Tx
from service.store.session import serialise
from service.store.tables import Conversation, Serving

_TABLE, _SERVING = cast(Table, Conversation.__table__), Serving.__table__
_DESIRED = Prepared(
    select(_SERVING.c.live, _SERVING.c.canary, _SERVING.c.canary_share, _TABLE.c.caller, _TABLE.c.adapter)
    .outerjoin_from(_SERVING, _TABLE, _TABLE.c.id == bindparam("id"))
    .where(_SERVING.c.id == literal_column("1"))
)
_OWNER_AND_ADAPTER = Prepared(select(_TABLE.c.caller, _TABLE.c.adapter).where(_TABLE.c.id == bindparam("id")))
_ADD = Prepared(insert(_TABLE))
_CHANGE_ADAPTER = Prepared(update(_TABLE).where(_TABLE.c.id == bindparam("of")).values(adapter=bindparam("to")))


@dataclass(frozen=True)
class Desired:
    """What serves, and what a conversation began with (None: it is new)."""

    live: str
    canary: str | None
    canary_share: float
    began_with: str | None


def desired_in(tx: Tx, conversation_id: str, caller: str) -> Desired:
    """Both in one look, because every chat takes it. Raises Conflict when the conversation isn't `caller`'s."""
    live, canary, share, owner, began_with = _DESIRED.run(tx, {"id": conversation_id}).fetchone()
    if owner is not None and owner != caller:
        raise _taken()
    return Desired(live, canary, share, began_with)


def remember_conversation(tx: Tx, conversation_id: str, caller: str, adapter: str) -> None:
    """Stick the conversation to an adapter from now on. Raises Conflict when it is somebody else's conversation."""
    serialise(tx, f"conversation {conversation_id}")
    known = _OWNER_AND_ADAPTER.run(tx, {"id": conversation_id}).fetchone()
    if known is None:
        _ADD.run(tx, {"id": conversation_id, "caller": caller, "adapter": adapter, "created_at": now()})
        return
    owner, adapter_before = known
    if owner != caller:
        raise _taken()
    if adapter_before != adapter:
        _CHANGE_ADAPTER.run(tx, {"of": conversation_id, "to": adapter})


def _taken() -> Conflict:
    return Conflict(
        "That conversation_id is taken.", "Leave it out, or send a random one.", param="hone.conversation_id"
    )
