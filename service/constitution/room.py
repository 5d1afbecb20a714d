"""Whether a constitution leaves room in the model's context for what it is to be asked about.

Each request under a principle holds the constitution's own words (preamble, the principle's examples, rule and
request), and what is left of the context is shared by a conversation, a reply, its critique and what is written next. A
principle is told of where less than a quarter of the context is left, or fewer than `SNUG` tokens; with fewer than
`LEAST` nothing can be looked at under it, and the constitution is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from service.constitution.principles import Constitution, Principle
from service.constitution.prompts import Message, critique_messages, revision_messages, verdict_messages
from service.errors import BadInput
from service.side_by_side import side_by_side

LEAST = 64
SNUG = 256
"""Tokens."""
MOST_NAMED = 3
"""Principles that are named beside the worst one."""
SHORTEN = "Shorten the preamble, its examples, its rule or its requests, or serve a model with a longer context."

Count = Callable[[Sequence[Message]], Coroutine[Any, Any, int]]
"""The tokens of messages, as the model's chat template puts them."""


@dataclass(frozen=True)
class Crowded:
    """A principle whose own words leave little room."""

    principle: str
    tokens: int
    context: int

    @property
    def left(self) -> int:
        return max(0, self.context - self.tokens)

    def __str__(self) -> str:
        about = "about " if self.tokens > self.context else ""
        return (
            f"Principle {self.principle}: its own words, with the preamble, are {about}{self.tokens} tokens of the "
            f"{self.context} that the model's context holds"
        )


async def crowded(
    constitution: Constitution, principles: Sequence[Principle], context: int, count: Count
) -> list[Crowded]:
    """Those of `principles` that are to be told of, the longest first. `context` in tokens. Raises what `count` does.

    A token is a byte at least, and a chat template adds few: what has so few bytes is not counted.
    """
    most = context - max(SNUG, context // 4)
    asked = {one.name: own_words(constitution, one) for one in principles}
    doubtful = {name: messages for name, messages in asked.items() if 2 * _bytes(messages) > most}
    counts = await side_by_side(map(count, doubtful.values()))
    found = [Crowded(name, tokens, context) for name, tokens in zip(doubtful, counts, strict=True) if tokens > most]
    return sorted(found, key=lambda one: -one.tokens)


def warnings(found: Sequence[Crowded]) -> tuple[str, ...]:
    """What to tell of them, in whole sentences. Raises BadInput where nothing can be looked at under one."""
    if not found:
        return ()
    full = [one for one in found if one.left < LEAST]
    if full:
        raise BadInput(
            f"{full[0]}, so nothing can be looked at under it{_likewise(full)}.", SHORTEN, param="constitution"
        )
    left = f"{found[0].left} are left for a conversation, a reply and a critique"
    return (f"{found[0]}: {left}{_likewise(found)}. {SHORTEN}",)


def own_words(constitution: Constitution, principle: Principle) -> list[Message]:
    """The longest request under a principle, about nothing."""
    nothing: list[Message] = [{"role": "user", "content": ""}]
    requests = (
        critique_messages(constitution, principle, nothing, ""),
        revision_messages(constitution, principle, nothing, "", ""),
        verdict_messages(constitution, principle, nothing, "", ""),
        verdict_messages(constitution, principle, nothing, "", "", reasoned=True),
    )
    return max(requests, key=_bytes)


def _bytes(messages: Sequence[Message]) -> int:
    return sum(len(one["content"].encode()) for one in messages)


def _likewise(found: Sequence[Crowded]) -> str:
    names = [one.principle for one in found[1:]]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; likewise {', '.join(names[:MOST_NAMED])}{more}" if names else ""
