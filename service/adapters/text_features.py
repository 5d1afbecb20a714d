"""What a person can see in a reply, as numbers: its length, its marks, its first and last words, words, word pairs.

The one definition of these features, in plain Python: the learner fits its preference model to them, and the service
scores sampled replies by them (`service.adapters.judge`), so the two can't drift apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import log1p

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

Extract = Callable[[str, int], Mapping[str, float]]
"""From a reply's text and its number of tokens to the features that it has, by name; all others are 0."""


def length(text: str, tokens: int) -> dict[str, float]:
    """In tokens, words and characters, each also as log(1 + x)."""
    counts = {"tokens": tokens, "words": len(text.split()), "characters": len(text)}
    return {**counts, **{f"log {name}": log1p(count) for name, count in counts.items()}}


def marks(text: str, tokens: int) -> dict[str, float]:
    """How often each mark stands in the text, and whether it does; capitals and digits count as one mark each."""
    found = Counter(
        "A" if c.isupper() else "0" if c.isdigit() else c for c in text if not (c.islower() or c == " ")
    )  # fmt: skip
    return {**found, **{f"any {mark}": 1.0 for mark in found}}


def ends(text: str, tokens: int) -> dict[str, float]:
    """The first two and the last two words."""
    found = _words(text)
    placed = {"first": found[:1], "second": found[1:2], "last": found[-1:], "before": found[-2:-1]}
    return {f"{place} {word}": 1.0 for place, at in placed.items() for word in at}


def words(text: str, tokens: int) -> dict[str, float]:
    """Which words and marks it has, in lower case."""
    return dict.fromkeys(_words(text), 1.0)


def word_pairs(text: str, tokens: int) -> dict[str, float]:
    """Which words follow which; a word holds no space."""
    return {f"{first} {second}": 1.0 for first, second in pairwise(_words(text))}


GROUPS: dict[str, Extract] = {
    "length": length,
    "marks": marks,
    "ends": ends,
    "words": words,
    "word pairs": word_pairs,
}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
