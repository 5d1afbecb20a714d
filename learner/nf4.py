"""The base in 4 bits, as QLoRA trains on it (arXiv 2305.14314), and the weights that those 4 bits stand for.

NF4 in blocks of 64 with double-quantised scales, of the base in bfloat16. What is quantised is what transformers
chooses: every linear layer but the output layer and what is tied to it. Whoever serves an adapter that was trained so
must serve `round_trip` of those layers (`learner.dequantise` writes them), or it corrects errors that aren't there.

Departure: on a CPU products are taken in float32, with the same bfloat16 values as on a GPU (`ExactLinear4bit`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer

from service.errors import TrainingFailed

try:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
except ModuleNotFoundError as error:
    raise TrainingFailed(
        "NF4 needs the package bitsandbytes.", "pip install '.[nf4]' in the project's folder."
    ) from error

BLOCK = 64
"""Weights that share a scale: bitsandbytes' own choice for a model that it loads."""

DEQUANTISED = "dequantised.json"
"""Lies in a folder that `hone base dequantise` wrote, and says of what."""


class _Product(torch.autograd.Function):
    """x Wᵀ with W in NF4: (…, in) → (…, out). W is dequantised forwards and again backwards, and never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Linear4bit) -> Tensor:
        ctx.layer = layer
        return x @ dequantised(layer).to(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ dequantised(ctx.layer).to(gradients[0].dtype), None


class ExactLinear4bit(Linear4bit):
    """A frozen layer that multiplies with bfloat16 values exactly as they are dequantised, whatever came before.

    bitsandbytes 0.50 itself takes other ones on a CPU: unrounded in float32; and, once a layer was used without
    gradients on a processor with AVX512-BF16, such with rounded scales, through which no gradient passes.
    """

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]  # torch leaves it so
        return product if self.bias is None else product + self.bias


def load_nf4(model_path: str | Path, device: torch.device) -> Any:
    """The base with its linear layers in NF4. Raises TrainingFailed where that can't be, OSError and ValueError."""
    if (Path(model_path) / DEQUANTISED).exists():
        raise TrainingFailed(
            f"{model_path} holds what NF4 gives back already; quantised again it would be another model.",
            "Name the model that it was made from as engine.model, and this folder as engine.weights.",
        )
    on_cpu = device.type == "cpu"
    base = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype=torch.bfloat16,
        quantization_config=_config(torch.float32 if on_cpu else torch.bfloat16),
        device_map={"": device},
    )
    if on_cpu:
        _refuse_broken_rows(base)
        for _, layer in _layers(base):
            layer.__class__ = ExactLinear4bit  # transformers makes them, and takes no other class
        for parameter in base.parameters():
            if parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.float()
    return base


def quantised_layers(model_path: str | Path) -> dict[str, bool]:
    """The layers that `load_nf4` quantises, by module name, found without loading a weight.

    The value says whether the layer keeps its weight the other way round (GPT-2's Conv1D), as (in, out). Raises
    TrainingFailed where a CPU can't give them back.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path), dtype=torch.bfloat16)
    skipped = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    model = replace_with_bnb_linear(model, skipped, _config(torch.bfloat16))
    _refuse_broken_rows(model)
    return {name: issubclass(module.source_cls, Conv1D) for name, module in _layers(model)}


def round_trip(weight: Tensor) -> Tensor:
    """A layer's weight (out, in), quantised to NF4 and back: bfloat16, the values that training multiplies with."""
    plain = weight.to(torch.bfloat16).contiguous()
    quantised, state = quantize_4bit(plain, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    return dequantize_4bit(quantised, state)


def dequantised(layer: Any) -> Tensor:
    """The weight of a layer in NF4: (out, in), bfloat16, or what the layer computes in."""
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def _config(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _layers(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit)]


def _refuse_broken_rows(model: Any) -> None:
    """bitsandbytes 0.50 with AVX-512 takes a wrong scale where a row ends within a block: 30 % off, without a word."""
    for name, layer in _layers(model):
        if layer.in_features % BLOCK:
            raise TrainingFailed(
                f"{name} has rows of {layer.in_features} weights, which NF4 on a CPU doesn't give back: it takes "
                f"multiples of {BLOCK}.",
                "Leave learner.quantise at none.",
            )
