"""Less memory for more time: of each layer only what goes in is kept for the backward pass, which runs it once more.

Gradient checkpointing (arXiv 1604.06174), by layer. transformers' own is on only while a model trains, with dropout,
and forbids a cache, which sampling needs; here it is on wherever gradients are taken. The layer has to run again as
the role that it ran as, whatever role the model acts in by then.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from service.errors import TrainingFailed

Acting = Callable[[], Callable[[], AbstractContextManager[Any]]]
"""Called when a layer runs first; gives what makes a context in which it runs alike, each time that it runs again."""


def checkpoint_layers(model: torch.nn.Module, acting: Acting) -> None:
    """Have the model's layers run again in backward passes. Raises TrainingFailed where it has none that is known."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingFailed(
            "It can't be told what this model's layers are, for gradient checkpointing.",
            "Set learner.gradient_checkpointing to false.",
        )
    for layer in layers:
        layer.forward = partial(_run, layer.forward, acting)


class _Again:
    """A context that can be entered more than once, as where a backward pass is taken twice."""

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make
        self._entered: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        context = self._make()
        context.__enter__()
        self._entered.append(context)

    def __exit__(self, *raised: Any) -> None:
        self._entered.pop().__exit__(*raised)


def _run(forward: Callable[..., Any], acting: Acting, *given: Any, **more: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **more)
    again = _Again(acting())
    return checkpoint(
        forward,
        *given,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), again),
        **more,
    )
