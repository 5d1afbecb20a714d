"""Correctness where nobody has the answer key: do replies hold the words that the base's own replies agree on?

Sampled several times, a model that knows an answer says it in many ways, but says it each time (self-consistency, arXiv
2203.11171). The words that most of its replies to one prompt share, and that its replies to other prompts rarely hold,
are the answer as far as the model knows one. Manners (greetings, hedges, openers) are left out by the second condition.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MOST = 0.7
"""Share of the replies to a prompt that must hold a word for it to be agreed on."""
RARE = 0.1
"""Share of the replies to other prompts above which a word is manner, not answer."""
WORD = re.compile(r"\w+")


def words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower()))


def consensus(replies: Sequence[str], background: Counter[str], others: int) -> frozenset[str]:
    """The words that the replies to one prompt agree on; empty where they agree on nothing, or there is one reply.

    background: how many of the `others` replies, to other prompts, hold each word.
    """
    if len(replies) < 2:
        return frozenset()
    held = Counter(word for reply in replies for word in words(reply))
    agreed = [word for word, count in held.items() if count >= MOST * len(replies)]
    return frozenset(word for word in agreed if background[word] <= RARE * others)


def agreement(replies: Sequence[str], agreed: frozenset[str]) -> list[float]:
    """For each reply the share of the agreed words that it holds; nothing where nothing is agreed on."""
    if not agreed:
        return []
    return [len(agreed & words(reply)) / len(agreed) for reply in replies]
