"""Conversations: which adapter a conversation began with, so that it doesn't change its voice mid-way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table, bindparam, insert, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.store.clock import now
from service.store.session import Tx, serialise
from service.store.tables import Conversation, Serving

_TABLE, _SERVING = cast(Table, Conversation.__table__), Serving.__table__
_DESIRED = (
    select(_SERVING.c.live, _SERVING.c.canary, _SERVING.c.canary_share, _TABLE.c.caller, _TABLE.c.adapter)
    .outerjoin_from(_SERVING, _TABLE, _TABLE.c.id == bindparam("id"))
    .where(_SERVING.c.id == 1)
)
_OWNER_AND_ADAPTER = select(_TABLE.c.caller, _TABLE.c.adapter).where(_TABLE.c.id == bindparam("id"))
_ADD = insert(_TABLE)
_CHANGE_ADAPTER = update(_TABLE).where(_TABLE.c.id == bindparam("of")).values(adapter=bindparam("to"))


@dataclass(frozen=True)
class Desired:
    """What serves, and what a conversation began with (None: it is new)."""

    live: str
    canary: str | None
    canary_share: float
    began_with: str | None


def desired_in(tx: Tx, conversation_id: str, caller: str) -> Desired:
    """Both in one look, because every chat takes it. Raises Conflict when the conversation isn't `caller`'s."""
    live, canary, share, owner, began_with = tx.execute(_DESIRED, {"id": conversation_id}).one()
    if owner is not None and owner != caller:
        raise _taken()
    return Desired(live, canary, share, began_with)


def remember_conversation(tx: Session, conversation_id: str, caller: str, adapter: str) -> None:
    """Stick the conversation to an adapter from now on. Raises Conflict when it is somebody else's conversation."""
    serialise(tx, f"conversation {conversation_id}")
    conversation = tx.execute(_OWNER_AND_ADAPTER, {"id": conversation_id}).first()
    if conversation is None:
        new = {"id": conversation_id, "caller": caller, "adapter": adapter, "created_at": now()}
        tx.execute(_ADD, new)
    elif conversation.caller != caller:
        raise _taken()
    elif conversation.adapter != adapter:
        tx.execute(_CHANGE_ADAPTER, {"of": conversation_id, "to": adapter})


def _taken() -> Conflict:
    return Conflict(
        "That conversation_id is taken.", "Leave it out, or send a random one.", param="hone.conversation_id"
    )
