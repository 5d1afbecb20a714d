"""Requests of the contract tests, and what there is to compare the answers with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import tokenizers

from service.embedded.tokenizer import Tokenizer, load_tokenizer
from service.settings import SPROUT
from tests.embedded.driving import Reference
from tests.fixtures.engines import ServedEngine

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
END = 2  # sprout's end-of-turn token
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
_READER = tokenizers.Tokenizer.from_file(str(SPROUT / "tokenizer.json"))
PROMPT: list[int] = _READER.encode(f"<|bos|><|user|>{QUESTION[0]['content']}<|end|><|assistant|>").ids
"""The same, as sprout's template has it."""
REPLY: list[int] = _READER.encode("Paris is the capital of F<|end|>").ids
"""Something to score after it."""


def chat(**options: Any) -> dict[str, Any]:
    return {"model": "sprout", "messages": QUESTION, "max_tokens": 8, **options}


def complete(**options: Any) -> dict[str, Any]:
    return {"model": "sprout", "prompt": PROMPT, "max_tokens": 8, **options}


def greedy_ids(engine: ServedEngine, model: str, tokens: int = 12) -> list[int]:
    body = complete(model=model, temperature=0, max_tokens=tokens, ignore_eos=True, return_token_ids=True)
    answer = engine.post(TEXT, body)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def scores(engine: ServedEngine, model: str, tokens: Sequence[int]) -> list[float]:
    """The log-probability under `model` of each token but the first."""
    body = complete(model=model, prompt=list(tokens), max_tokens=1, temperature=0, prompt_logprobs=0)
    answer = engine.post(TEXT, body)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["choices"][0]["prompt_logprobs"]
    assert rows[0] is None
    return [row[str(token)]["logprob"] for row, token in zip(rows[1:], tokens[1:], strict=True)]


def true_scores(tokens: Sequence[int], adapter: Path | None = None) -> list[float]:
    """The same, by transformers and PEFT in float32."""
    return _reference(adapter).scores(list(tokens))


def gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference, in nats."""
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))


@cache
def _reference(adapter: Path | None) -> Reference:
    return Reference(SPROUT, adapter)


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(SPROUT)
