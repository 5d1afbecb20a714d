"""Replies that were revised while they were served: each is a preference of the constitution's, draft against revision,
with the odds of the verdict by which it was answered.

They are no judgements of people's, and stay apart from these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learner.batch import Messages, Pair, TokenIds
from service.store.queries.revisions import RevisionPair

UNJUDGED = "a reply revised while served, and no verdict found the revision better"


@dataclass(frozen=True)
class ServedRevision:
    """One reply as it was drafted and as it was served; the revision's token ids end with EOS."""

    exchange_id: str
    conversation_id: str
    base: str  # the base model whose tokens these are
    prompt_token_ids: TokenIds
    draft_token_ids: TokenIds
    revision_token_ids: TokenIds
    messages: Messages
    constitution: str  # the version under which it was revised
    principle: str
    caller: str = ""
    odds: float | None = None  # that the revision is better; None: no verdict was asked for, as before there were any

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
            caller=pair.caller,
            odds=pair.odds,
        )

    def pair(self) -> Pair:
        """The revision over its draft, as sure as the verdict was; of one that `found_better` lets through."""
        assert self.odds is not None
        return Pair(
            self.prompt_token_ids,
            self.revision_token_ids,
            self.draft_token_ids,
            conversation_id=self.conversation_id,
            certainty=self.odds,
        )


def found_better(revisions: Sequence[ServedRevision], set_aside: Counter[str]) -> list[ServedRevision]:
    """Those that a verdict preferred to their drafts."""
    found = [one for one in revisions if one.odds is not None and one.odds > 0.5]
    set_aside[UNJUDGED] += len(revisions) - len(found)
    return [one for one in found if one.revision_token_ids != one.draft_token_ids]


def read_revision(record: Mapping[str, Any]) -> ServedRevision:
    """From the plain values of a snapshot's line."""
    ids = {name: tuple(int(token) for token in record[name])
           for name in ("prompt_token_ids", "draft_token_ids", "revision_token_ids")}  # fmt: skip
    messages = tuple((str(role), str(text)) for role, text in record["messages"])
    return ServedRevision(**{**record, **ids, "messages": messages})
