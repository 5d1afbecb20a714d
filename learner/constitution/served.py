"""Replies that were revised while they were served: each is a preference of the constitution's, draft against revision.

They are no judgements of people's, and stay apart from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learner.batch import Messages, TokenIds
from service.store.queries.revisions import RevisionPair


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

    @classmethod
    def of(cls, pair: RevisionPair, base: str) -> ServedRevision:
        """As the store has it; `base`: the name of its base model."""
        return cls(
            exchange_id=pair.exchange_id,
            conversation_id=pair.conversation_id,
            base=base,
            prompt_token_ids=tuple(pair.prompt_token_ids),
            draft_token_ids=tuple(pair.rejected_token_ids),
            revision_token_ids=tuple(pair.chosen_token_ids),
            messages=tuple((str(turn["role"]), str(turn["content"])) for turn in pair.messages),
            constitution=pair.constitution,
            principle=pair.principle,
        )


def read_revision(record: Mapping[str, Any]) -> ServedRevision:
    """From the plain values of a snapshot's line."""
    ids = {name: tuple(int(token) for token in record[name])
           for name in ("prompt_token_ids", "draft_token_ids", "revision_token_ids")}  # fmt: skip
    messages = tuple((str(role), str(text)) for role, text in record["messages"])
    return ServedRevision(**{**record, **ids, "messages": messages})
