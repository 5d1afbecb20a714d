"""Mends LoRA in vLLM where it runs without a GPU: a request that names no adapter gets none.

vLLM marks the tokens of such a request with slot -1. Its code in plain torch, which the CPU build uses, takes that for
the last slot (seen in 0.32): once that was ever filled, the bare base answers as if it had that adapter, which no
unloading mends. The code for GPUs passes such tokens over. Runs inside vLLM's processes, and imports nothing of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

OPERATIONS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
"""`operation(inputs, weights, output, slots, …)` adds to row i of `output` what adapter slots[i] makes of its input."""

USERS = ("vllm.lora.ops.torch_ops.lora_ops", "vllm.lora.ops.torch_ops", "vllm.lora.punica_wrapper.punica_cpu")
"""The modules that have these by name; the last may not be loaded yet, and will find what is put in the others."""


def register() -> None:
    """What vLLM calls in each of its processes, perhaps more than once. One without these operations is left alone."""
    try:
        import_module(USERS[0])
    except ModuleNotFoundError:
        return
    for name in USERS:
        module = sys.modules.get(name)
        for operation in OPERATIONS:
            theirs = getattr(module, operation, None)
            if theirs is not None and not hasattr(theirs, "__wrapped__"):
                setattr(module, operation, _sparing_the_base(theirs))


def _sparing_the_base(theirs: Callable[..., None]) -> Callable[..., None]:
    @wraps(theirs)
    def ours(inputs: Any, weights: Any, output: Any, slots: Any, *rest: Any, **options: Any) -> None:
        rows = output[: len(slots)]
        before = rows.clone()
        theirs(inputs, weights, output, slots, *rest, **options)
        rows.copy_(rows.where(slots[:, None] >= 0, before))

    return ours
