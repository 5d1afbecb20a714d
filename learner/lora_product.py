"""A linear layer with its adapter as one function: y = x Wᵀ + s (x Aᵀ) Bᵀ, W frozen, A and B of low rank (LoRA, arXiv
2106.09685, eq. 3).

PEFT composes it of operations of which each makes a tensor of its own and a step of the backward pass: two products,
a scaling and a sum, and where the base is in half precision casts to float32 and back, of what goes in as well. Here
the second summand is added inside the matrix product that makes it, forwards and backwards, and nothing is kept for the
backward pass but x and x Aᵀ. An adapter in float32 beside a base in half precision is rounded as it is used.

W may be in NF4: it is dequantised forwards and again backwards, and never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, base: nn.Linear, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        low = rows @ a.to(x.dtype).t()  # (N, r)
        made = F.linear(rows, _weight(base, x.dtype), base.bias)  # (N, out)
        made.addmm_(low, b.to(x.dtype).t(), alpha=scaling)
        ctx.save_for_backward(rows, low, a, b)
        ctx.base, ctx.scaling = base, scaling
        return made.reshape(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        rows, low, a, b = ctx.saved_tensors
        slopes = gradient.reshape(-1, gradient.shape[-1])  # (N, out)
        of_low = (slopes @ b.to(slopes.dtype)).mul_(ctx.scaling)  # (N, r)
        of_x = of_a = of_b = None
        if ctx.needs_input_grad[0]:
            of_x = slopes @ _weight(ctx.base, slopes.dtype)
            of_x.addmm_(of_low, a.to(slopes.dtype))
            of_x = of_x.reshape(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            of_a = (of_low.t() @ rows).to(a.dtype)
        if ctx.needs_input_grad[2]:
            of_b = (slopes.t() @ low).to(b.dtype).mul_(ctx.scaling)
        return of_x, of_a, of_b, None, None


def fuse(model: nn.Module) -> None:
    """Have every adapted linear layer of a PEFT model compute so whenever one plain adapter is active, and as the base
    does where one is merged into it; where adapters are several, or more than LoRA, it stays with PEFT."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and _is_linear(layer):
            layer.forward = partial(_forward, layer, layer.forward)


def _forward(layer: Any, as_peft_does: Callable[..., Any], x: Tensor, *given: Any, **more: Any) -> Any:
    if given or more or (layer.merged and layer.disable_adapters):  # there PEFT takes them out first
        return as_peft_does(x, *given, **more)
    base = layer.get_base_layer()
    if layer.merged or layer.disable_adapters:
        return base(x)
    [name, *others] = layer.active_adapters or [""]
    fits = x.dtype == base.weight.dtype or getattr(base.weight, "quant_state", None) is not None
    if others or not fits or not _is_plain(layer, name):
        return as_peft_does(x)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _Product.apply(x, a, b, base, layer.scaling[name])  # type: ignore[no-untyped-call]  # torch's


def _is_linear(layer: Any) -> bool:
    base = layer.get_base_layer()
    return isinstance(base, nn.Linear) and not getattr(layer, "fan_in_fan_out", False)


def _is_plain(layer: Any, name: str) -> bool:
    """Whether an adapter of this layer is a product of two matrices and nothing more."""
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_B[name].bias is not None:
        return False
    return isinstance(layer.lora_dropout[name], nn.Identity)


def _weight(base: nn.Linear, dtype: torch.dtype) -> Tensor:
    if getattr(base.weight, "quant_state", None) is None:
        return base.weight
    from learner.nf4 import dequantised  # bitsandbytes need not be there

    return dequantised(base).to(dtype)
