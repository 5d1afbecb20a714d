"""Replies that were revised while they were served: each is a preference of the constitution's, draft against revision.

This is the learner's one look at them; what stores them is the service's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from learner.batch import Messages, TokenIds


@dataclass(frozen=True)
class ServedRevision:
    """One reply as it was drafted and as it was served. Token ids end with EOS."""

    exchange_id: str
    conversation_id: str
    base: str  # the base model whose tokens these are
    prompt_token_ids: TokenIds
    draft_token_ids: TokenIds
    revision_token_ids: TokenIds
    messages: Messages
    constitution: str  # the version under which it was revised
    principle: str


def served_revisions(tx: Session) -> tuple[ServedRevision, ...]:
    """Those whose exchanges are still there, oldest first. None is stored yet."""
    return ()


def read_revision(record: Mapping[str, Any]) -> ServedRevision:
    """From the plain values of a snapshot's line."""
    ids = {name: tuple(int(token) for token in record[name])
           for name in ("prompt_token_ids", "draft_token_ids", "revision_token_ids")}  # fmt: skip
    messages = tuple((str(role), str(text)) for role, text in record["messages"])
    return ServedRevision(**{**record, **ids, "messages": messages})
