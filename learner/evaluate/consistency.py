"""Whether the candidate still says what the base knows: its replies beside the words that the base's own agree on
(`learner.evaluate.agreement`), and how much of them it lost at least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.evaluate.agreement import agreement, consensus, words
from learner.evaluate.answers import Answers, answer, spread
from learner.evaluate.intervals import Z


def kept_answers(candidate: Answers, base: Answers) -> dict[str, Any]:
    """Reply by reply: does it hold what the base's other replies to that prompt agree on? Candidate and base alike."""
    held = Counter(word for text in base.flat_texts for word in words(text))
    by_prompt: list[tuple[float, float]] = []  # where there is a consensus: candidate's agreement, base's
    for texts, texts_base in zip(candidate.texts, base.texts, strict=True):
        background = held - Counter(word for text in texts_base for word in words(text))
        rows: list[tuple[float, float]] = []
        for index, (text, text_base) in enumerate(zip(texts, texts_base, strict=True)):
            rest = texts_base[:index] + texts_base[index + 1 :]
            agreed = consensus(rest, background, len(base.flat_texts) - len(texts_base))
            rows += zip(agreement([text], agreed), agreement([text_base], agreed), strict=True)
        if rows:
            by_prompt.append((sum(a for a, _ in rows) / len(rows), sum(b for _, b in rows) / len(rows)))
    return _lost(by_prompt)


def _lost(by_prompt: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean agreement of candidate and base, and what the candidate lost at least."""
    if not by_prompt:
        return {}
    lost = torch.tensor([b - a for a, b in by_prompt])
    error = float(lost.std()) / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else 1.0
    return {
        "agreement": sum(a for a, _ in by_prompt) / len(by_prompt),
        "agreement_base": sum(b for _, b in by_prompt) / len(by_prompt),
        "agreement_lost_low": float(lost.mean()) - Z * error,
    }


def kept_neighbours(backbone: Backbone, neighbours: Sequence[TokenIds], most: int, seed: int) -> dict[str, Any]:
    """Of `most` of them: do the likeliest replies of candidate and base hold what the base's samples agree on?"""
    if not neighbours:
        return {}
    chosen = spread(neighbours, most)
    sampled = answer(backbone, chosen, "base", seed + 3)
    likeliest, likeliest_base = (answer(backbone, chosen, role, seed, per_prompt=1) for role in ("policy", "base"))
    held = Counter(word for text in sampled.flat_texts for word in words(text))
    by_prompt: list[tuple[float, float]] = []
    for texts, (text,), (text_base,) in zip(sampled.texts, likeliest.texts, likeliest_base.texts, strict=True):
        background = held - Counter(word for one in texts for word in words(one))
        agreed = consensus(texts, background, len(sampled.flat_texts) - len(texts))
        by_prompt += zip(agreement([text], agreed), agreement([text_base], agreed), strict=True)
    found = _lost(by_prompt)
    return {"neighbours": len(chosen)} | {f"neighbours_{name}": value for name, value in found.items()}
