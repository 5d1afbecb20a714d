"""What a cycle needs of the base model before anything is loaded to train: its tokenizer, and how much it takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from service.adapters.fingerprint import model_folder
from service.errors import BadInput, TrainingFailed

Tokenize = Callable[[str], tuple[int, ...]]


def load_tokenizer(model_path: str | Path) -> Any:
    """The base model's, which doesn't warn of a text longer than the model's context: whoever asks counts the tokens
    and cuts or leaves out what has too many. Raises OSError or ValueError where it can't be loaded."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.model_max_length = sys.maxsize
    return tokenizer


def reply_tokenizer(model_path: str) -> Tokenize:
    """From a reply's text to its token ids, EOS included, by the base model's tokenizer, loaded at the first use."""

    @cache
    def load() -> Any:
        try:
            tokenizer = load_tokenizer(model_path)
        except (OSError, ValueError) as error:
            raise TrainingFailed(f"The tokenizer of {model_path} can't be loaded: {error}.") from error
        if tokenizer.eos_token_id is None:
            raise TrainingFailed(f"The tokenizer of {model_path} has no EOS token, so no reply could learn to end.")
        return tokenizer

    def tokenize(text: str) -> tuple[int, ...]:
        return (*load().encode(text, add_special_tokens=False), load().eos_token_id)

    return tokenize


def context_length(model_path: str) -> int | None:
    """How many tokens the base model was made for; None when its files are not here or don't say."""
    try:
        config = json.loads((model_folder(model_path) / "config.json").read_text(encoding="utf-8"))
    except (BadInput, OSError, ValueError):
        return None
    length = config.get("max_position_embeddings")
    return length if isinstance(length, int) else None
