"""Conversations: which adapter a conversation began with, so that it doesn't change its voice mid-way."""

from __future__ import annotations

from typing import cast

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.store.clock import now
from service.store.session import serialise
from service.store.tables import Conversation

_TABLE = Conversation.__table__
_OWNER_AND_ADAPTER = select(_TABLE.c.caller, _TABLE.c.adapter).where(_TABLE.c.id == bindparam("id"))
_ADD = insert(_TABLE)
_CHANGE_ADAPTER = update(_TABLE).where(_TABLE.c.id == bindparam("of")).values(adapter=bindparam("to"))


def adapter_of_conversation(tx: Session, conversation_id: str, caller: str | None = None) -> str | None:
    """The adapter that the conversation sticks to; None when it is new. Raises Conflict when it isn't `caller`'s."""
    conversation = tx.execute(_OWNER_AND_ADAPTER, {"id": conversation_id}).first()
    if conversation is None:
        return None
    if caller is not None and conversation.caller != caller:
        raise _taken()
    return cast(str, conversation.adapter)


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
