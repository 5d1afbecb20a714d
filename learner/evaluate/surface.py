"""What the texts of replies tell by themselves: how long they are, how varied, how many are empty or have no end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

from learner.evaluate.answers import Answers


def surface(candidate: Answers, base: Answers) -> dict[str, Any]:
    """What the texts alone tell: lengths, repetition, empty and unfinished replies."""
    found: dict[str, Any] = {}
    rounds = list(zip(_rounds(candidate), _rounds(base), strict=True))
    most = [min(sum(len(_word_pairs(text)) for text in texts) for texts in both) for both in rounds]
    for place, (suffix, answers) in enumerate((("", candidate), ("_base", base))):
        texts = answers.flat_texts
        found["mean_length" + suffix] = sum(len(text.split()) for text in texts) / max(1, len(texts))
        found["unfinished_share" + suffix] = sum(not reply.ended for reply in answers.flat) / max(1, len(texts))
        shares = [distinct_2(both[place], pairs) for both, pairs in zip(rounds, most, strict=True)]
        found["distinct_2" + suffix] = sum(shares) / max(1, len(shares))
        shares = [commonest_share(both[place]) for both in rounds]
        found["commonest_share" + suffix] = sum(shares) / max(1, len(shares))
    texts = candidate.flat_texts
    found["empty_share"] = sum(not text.strip() for text in texts) / max(1, len(texts))
    return found


def _rounds(answers: Answers) -> list[list[str]]:
    """One reply to every prompt, then another to every prompt, and so on: what repeats in one repeats among prompts."""
    return [list(texts) for texts in zip(*answers.texts, strict=True)]


def distinct_2(texts: Sequence[str], most: int | None = None) -> float:
    """Different word pairs over all word pairs (arXiv 1510.03055); 1 where there is none.

    The more pairs, the more repeat: to compare, take as many of both, `most`, from texts in an order of chance.
    """
    shuffled = Random(0).sample(texts, len(texts))
    pairs = [pair for text in shuffled for pair in _word_pairs(text)][:most]
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def commonest_share(texts: Sequence[str]) -> float:
    """How many of the texts are the commonest one, but for case and spaces."""
    counts = Counter(" ".join(text.casefold().split()) for text in texts)
    return max(counts.values(), default=0) / max(1, len(texts))


def _word_pairs(text: str) -> list[tuple[str, str]]:
    return list(pairwise(text.split()))
