"""Models of other architectures, as small as the tiny one."""

from __future__ import annotations

from typing import Any

import torch

from tests.learner.tiny_model import PAD, WORDS

VOCABULARY = len(WORDS)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
    "pad_token_id": PAD,
}  # fmt: skip


def small(model: type[Any], config: type[Any], **more: Any) -> Any:
    torch.manual_seed(0)
    return model(config(**SIZES, **more)).eval().requires_grad_(False)
