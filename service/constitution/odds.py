"""The odds of a verdict, from the log-probabilities of its letter as OpenAI-compatible endpoints tell them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from service.constitution.principles import Constitution
from service.constitution.prompts import Message


def up_to_the_letter(constitution: Constitution, asked: Sequence[Message]) -> list[Message]:
    """A request for a verdict with the answer begun, so that what comes next is its letter."""
    return [*asked, {"role": "assistant", "content": constitution.verdict_prefix.rstrip()}]


def letter(token: Any) -> str:
    """What a token says, whatever stands around it."""
    return str(token.get("token", "")).strip().upper() if isinstance(token, dict) else ""


def letter_log_probs(token: Any) -> dict[str, float]:
    """Of A and B, where a verdict's letter stands: those of `token` and of what it might have been (`top_logprobs`)."""
    others = token.get("top_logprobs") if isinstance(token, dict) else None
    found: dict[str, float] = {}
    for option in (token, *(others if isinstance(others, list) else ())):
        said, nats = letter(option), option.get("logprob") if isinstance(option, dict) else None
        if said in ("A", "B") and isinstance(nats, int | float) and nats <= 0 and math.isfinite(nats):
            found[said] = max(nats, found.get(said, -math.inf))
    return found


def share_of_a(by_letter: dict[str, float]) -> float:
    """Between the two letters; one that isn't among the likeliest is as good as never said."""
    a, b = (math.exp(by_letter[one]) if one in by_letter else 0.0 for one in ("A", "B"))
    return a / (a + b) if a + b else 0.5
