"""Whether the candidate still says what the base knows: its replies beside the words that the base's own agree on
(`learner.evaluate.agreement`), and how much of them it lost at least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import fmean
from typing import Any

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.evaluate.agreement import agreement, consensus, words
from learner.evaluate.answers import Answers, answer, spread
from learner.evaluate.intervals import Z

Row = tuple[float, float]
"""What the candidate's replies hold of the words agreed on, and what the base's reply does."""


def kept_answers(candidate: Answers, base: Answers) -> dict[str, Any]:
    """Leaving out one reply of the base after the other: what its others to that prompt agree on, do the candidate's
    replies and the one left out hold it? Neither has a say in it, so that a model which is the base loses nothing."""
    held = Counter(word for text in base.flat_texts for word in words(text))
    by_prompt: list[list[Row]] = []
    for texts, texts_base in zip(candidate.texts, base.texts, strict=True):
        background = held - Counter(word for text in texts_base for word in words(text))
        rows: list[Row] = []
        for index, text_base in enumerate(texts_base):
            rest = texts_base[:index] + texts_base[index + 1 :]
            agreed = consensus(rest, background, len(base.flat_texts) - len(texts_base))
            if agreed:
                rows.append((fmean(agreement(texts, agreed)), agreement([text_base], agreed)[0]))
        by_prompt.append(rows)
    return _lost(by_prompt)


def _lost(by_prompt: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Mean agreement of candidate and base, and what the candidate lost at least.

    Every row counts alike: a prompt has the fewer of them, the more often the base's left out reply is the odd one, so
    a mean of the prompts' means would be below what the base holds. Rows of one prompt depend on each other, so the
    interval is that of a ratio with prompts as the draws (Cochran 1977, Sampling Techniques, section 6.4).
    """
    rows = [row for of_prompt in by_prompt for row in of_prompt]
    if not rows:
        return {}
    kept, kept_base = (fmean(side) for side in zip(*rows, strict=True))
    lost, prompts = kept_base - kept, sum(map(bool, by_prompt))
    off = [sum(base - ours - lost for ours, base in of_prompt) for of_prompt in by_prompt]
    error = sqrt(prompts / (prompts - 1) * sum(one * one for one in off)) / len(rows) if prompts > 1 else 1.0
    return {"agreement": kept, "agreement_base": kept_base, "agreement_lost_low": lost - Z * error}


def kept_neighbours(backbone: Backbone, neighbours: Sequence[TokenIds], most: int, seed: int) -> dict[str, Any]:
    """Of `most` of them: do the likeliest replies of candidate and base hold what the base's samples agree on?"""
    if not neighbours:
        return {}
    chosen = spread(neighbours, most)
    sampled = answer(backbone, chosen, "base", seed + 3)
    likeliest, likeliest_base = (answer(backbone, chosen, role, seed, per_prompt=1) for role in ("policy", "base"))
    held = Counter(word for text in sampled.flat_texts for word in words(text))
    by_prompt: list[list[Row]] = []
    for texts, (text,), (text_base,) in zip(sampled.texts, likeliest.texts, likeliest_base.texts, strict=True):
        background = held - Counter(word for one in texts for word in words(one))
        agreed = consensus(texts, background, len(sampled.flat_texts) - len(texts))
        by_prompt.append(list(zip(agreement([text], agreed), agreement([text_base], agreed), strict=True)))
    found = _lost(by_prompt)
    return {"neighbours": len(chosen)} | {f"neighbours_{name}": value for name, value in found.items()}
