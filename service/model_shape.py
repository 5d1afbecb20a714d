"""A model's shape by its `config.json`, and the numbers of parameters and bytes that follow from it, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LLAMA_FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose layers are all alike: queries, keys, values, output; gate, up, down. For other models
nothing is computed here."""

_WIDE = ("float32", "torch.float32")


@dataclass(frozen=True)
class ModelShape:
    """A model of the Llama family. Norms and biases are left out: a thousandth of the parameters."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Whether input and output embeddings are one."""
    context: int = 4096
    """Tokens that it was made for."""
    number_bytes: int = 2
    """Of each number as it is stored: 2 in bfloat16 and float16, 4 in float32."""

    @property
    def queries(self) -> int:
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def linear(self) -> int:
        """Parameters of the linear layers."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def widths(self) -> int:
        """Inputs and outputs of all linear layers, summed: a LoRA of rank r has r times as many parameters."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a `config.json` of transformers tells; None for another family, for quantised weights, and where
    a number is missing."""
    if config.get("model_type") not in LLAMA_FAMILY or config.get("quantization_config"):
        return None
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            context=int(config.get("max_position_embeddings", ModelShape.context)),
            number_bytes=4 if (config.get("dtype") or config.get("torch_dtype")) in _WIDE else 2,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def read_config(model: str) -> dict[str, Any]:
    """A model's `config.json`, from its folder, the hub's cache or the hub; empty where it can't be had."""
    if Path(model).is_dir():
        path: Path | None = Path(model) / "config.json"
    else:
        path = _downloaded(model, is_there=True) or _from_hub(model)
    try:
        config = json.loads(path.read_bytes()) if path is not None else {}
    except (OSError, ValueError):  # who serves the model will say what is wrong
        return {}
    return config if isinstance(config, dict) else {}


@cache  # without a network the hub is waited for in vain for many seconds
def _from_hub(model: str) -> Path | None:
    return _downloaded(model, is_there=False)


def _downloaded(model: str, is_there: bool) -> Path | None:
    """Where the `config.json` of a hub's model lies in the hub's cache; None where it can't be had.

    `is_there`: look in the cache alone, and ask no hub.
    """
    from huggingface_hub import hf_hub_download  # only for hub names: it takes its time to import

    try:
        return Path(hf_hub_download(model, "config.json", local_files_only=is_there))
    except (OSError, ValueError):  # which the hub's own errors are, too
        return None
