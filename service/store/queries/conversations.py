"""Conversations: which adapter a conversation began with, so that it doesn't change its voice mid-way."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.errors import Conflict
from service.store.clock import now
from service.store.session import serialise
from service.store.tables import Conversation


def adapter_of_conversation(tx: Session, conversation_id: str, caller: str | None = None) -> str | None:
    """The adapter that the conversation sticks to; None when it is new. Raises Conflict when it isn't `caller`'s."""
    conversation = tx.get(Conversation, conversation_id)
    if conversation is None:
        return None
    if caller is not None and conversation.caller != caller:
        raise _taken()
    return conversation.adapter


def remember_conversation(tx: Session, conversation_id: str, caller: str, adapter: str) -> None:
    """Stick the conversation to an adapter from now on. Raises Conflict when it is somebody else's conversation."""
    serialise(tx, f"conversation {conversation_id}")
    conversation = tx.get(Conversation, conversation_id)
    if conversation is None:
        tx.add(Conversation(id=conversation_id, caller=caller, adapter=adapter, created_at=now()))
        tx.flush()
        return
    if conversation.caller != caller:
        raise _taken()
    conversation.adapter = adapter


def _taken() -> Conflict:
    return Conflict(
        "That conversation_id is taken.", "Leave it out, or send a random one.", param="hone.conversation_id"
    )
