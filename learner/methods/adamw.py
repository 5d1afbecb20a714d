"""AdamW, with its two moments in pages that move out of a GPU's memory where a step needs it (QLoRA, arXiv 2305.14314,
section 3), or where the parameters are.

Pages are bitsandbytes', in CUDA's unified memory; its step is AdamW's in 32 bits, as torch's is. They are for a base in
4 bits, which is chosen where memory is short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)


def moments_in(device: str, in_4_bits: bool, has_bitsandbytes: bool) -> Literal["pages", "memory"]:
    """Where AdamW's moments are to be. `device`: the type of the parameters' device; `in_4_bits`: the base."""
    return "pages" if device == "cuda" and in_4_bits and has_bitsandbytes else "memory"


def make_adamw(
    parameters: Sequence[nn.Parameter], learning_rate: float, *, in_4_bits: bool = False
) -> torch.optim.Optimizer:
    """Without weight decay, for parameters of one device."""
    device = parameters[0].device.type if parameters else "cpu"
    if moments_in(device, in_4_bits, find_spec("bitsandbytes") is not None) == "pages":
        from bitsandbytes.optim import PagedAdamW32bit

        paged: torch.optim.Optimizer = PagedAdamW32bit(parameters, lr=learning_rate, betas=BETAS, weight_decay=0.0)
        return paged
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=BETAS, weight_decay=0.0)


def moments(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """A copy, on the CPU, of what the optimizer knows of each parameter that was ever moved, by its number.

    Not its `state_dict`, in which bitsandbytes hides the moments from FSDP under a name of its own.
    """
    return {
        str(number): {
            name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
            for name, value in optimizer.state[parameter].items()
        }
        for number, parameter in enumerate(_parameters(optimizer))
        if optimizer.state.get(parameter)
    }


def set_moments(optimizer: torch.optim.Optimizer, kept: Mapping[str, Mapping[str, Any]]) -> None:
    """To such a copy, of the same parameters."""
    if not hasattr(optimizer, "init_state"):
        state = optimizer.state_dict()
        optimizer.load_state_dict(state | {"state": {int(number): dict(one) for number, one in kept.items()}})
        return
    # bitsandbytes' load_state_dict would put the moments into the GPU's own memory for good: its pages are made first.
    parameters = _parameters(optimizer)
    for place in map(int, kept):
        optimizer.init_state(optimizer.param_groups[0], parameters[place], 0, place)
    if parameters and parameters[0].is_cuda:
        torch.cuda.synchronize(parameters[0].device)  # they are being filled with zeros
    for number, one in kept.items():
        own = optimizer.state[parameters[int(number)]]
        for name, value in one.items():
            if isinstance(value, Tensor):
                own[name].copy_(value)
            else:
                own[name] = value


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
