"""LoRA adapters on disk, in PEFT's format: read, checked in full, refused with a reason.

Follows LoRA (Hu et al., arXiv 2106.09685) and rsLoRA's scale (arXiv 2312.03732). Only safetensors are read. What would
not be computed exactly as it was trained is refused: DoRA, trained biases, whole modules saved beside the adapter,
other adapter types, layers that the model does not have, shapes that do not fit, numbers that are not finite.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from service.embedded.errors import AdapterRefused

Rest = Callable[[], None]
"""Called after every matrix that is read or prepared: who works beside a decoding engine gives way there."""

TENSOR_NAME = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight$")


@dataclass(frozen=True)
class LoraDelta:
    """`scale * up @ down` is added to a linear layer's weight `(out, in)`: `down` `(rank, in)`, `up` `(out, rank)`."""

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class LoraAdapter:
    name: str
    path: Path
    deltas: dict[str, LoraDelta]  # by the linear layer's name in the base model


def go_on() -> None:
    """No rest: nobody else waits for this core."""


def read_adapter(
    name: str, path: Path, linear_shapes: Mapping[str, tuple[int, int]], max_rank: int, rest: Rest = go_on
) -> LoraAdapter:
    """The adapter in folder `path`, checked against the base model's linear layers (name → (in, out)).

    Raises AdapterRefused, naming the file and what is wrong with it.
    """
    config = _read_config(path)
    _refuse_unsupported(path, config)
    pairs = _read_pairs(path, rest)
    deltas: dict[str, LoraDelta] = {}
    for module, parts in pairs.items():
        if module not in linear_shapes:
            raise AdapterRefused(
                f"{path}: the base model has no linear layer {module}; the adapter is for another one."
            )
        if set(parts) != {"A", "B"}:
            raise AdapterRefused(
                f"{path}: half of the adapter for {module} is missing (lora_A and lora_B come in pairs)."
            )
        deltas[module] = _delta(path, config, module, parts, linear_shapes[module])
        if (rank := deltas[module].down.shape[0]) > max_rank:
            raise AdapterRefused(f"{path}: rank {rank} is above the engine's --max-lora-rank {max_rank}.")
    return LoraAdapter(name, path, deltas)


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "adapter_config.json"
    if not file.is_file():
        raise AdapterRefused(f"{path} holds no adapter: adapter_config.json is missing.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise AdapterRefused(f"{file} does not hold an adapter's configuration.")
    return config


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    faults = {
        f"its type is {config.get('peft_type')}, not LORA": config.get("peft_type") != "LORA",
        "it uses DoRA": config.get("use_dora"),
        "it trains biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        "it saves whole modules (modules_to_save)": config.get("modules_to_save"),
        "it trains token embeddings (trainable_token_indices)": config.get("trainable_token_indices"),
        "it waits for certain tokens (alora_invocation_tokens)": config.get("alora_invocation_tokens"),
    }
    if found := [fault for fault, present in faults.items() if present]:
        raise AdapterRefused(f"{path} cannot be served: {' and '.join(found)}. Plain LoRA is supported.")


def _read_pairs(path: Path, rest: Rest) -> dict[str, dict[str, Tensor]]:
    """Each module's "A" and "B" tensors, in float32."""
    file = path / "adapter_model.safetensors"
    if not file.is_file():
        raise AdapterRefused(f"{file} is missing (pickled adapter_model.bin files are never read).")
    pairs: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.offset_keys():  # as they lie in the file
                match = TENSOR_NAME.match(key)
                if match is None:
                    raise AdapterRefused(f"{file}: tensor {key} is not of plain LoRA on a linear layer.")
                tensor = tensors.get_tensor(key)
                if tensor.dim() != 2 or not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                    raise AdapterRefused(f"{file}: tensor {key} is not a matrix of finite numbers.")
                pairs.setdefault(match["module"], {})[match["part"]] = tensor.float()
                rest()
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterRefused(f"{file} is damaged or unreadable: {error}.") from error
    if not pairs:
        raise AdapterRefused(f"{file} holds no tensors.")
    return pairs


def _delta(
    path: Path, config: dict[str, Any], module: str, parts: dict[str, Tensor], size: tuple[int, int]
) -> LoraDelta:
    down, up = parts["A"], parts["B"]
    rank = _patterned(path, config, "rank_pattern", module, config.get("r"))
    alpha = _patterned(path, config, "alpha_pattern", module, config.get("lora_alpha"))
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise AdapterRefused(
            f"{path}: adapter_config.json gives {module} the rank (r) {rank!r} and lora_alpha {alpha!r}; "
            "a whole number from 1 up and a finite number are needed."
        )
    if down.shape != (rank, size[0]) or up.shape != (size[1], rank):
        raise AdapterRefused(
            f"{path}: {module} has shapes {tuple(down.shape)} and {tuple(up.shape)}; "
            f"the base model and rank {rank} ask for {(rank, size[0])} and {(size[1], rank)}."
        )
    return LoraDelta(down, up, alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _patterned(path: Path, config: dict[str, Any], key: str, module: str, default: Any) -> Any:
    """PEFT's per-module exceptions: the first pattern that matches the end of the module's name."""
    patterns = config.get(key) or {}
    try:
        matching = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
        return next(matching, default)
    except (AttributeError, re.error) as error:
        message = f"{path}: {key} in adapter_config.json does not map patterns to numbers: {error}."
        raise AdapterRefused(message) from error
