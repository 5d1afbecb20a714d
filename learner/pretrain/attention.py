"""Attention of packed rows, one dialogue at a time: what lies in another dialogue is never computed.

A mask over the whole row would cost as much as one dialogue of the row's length; here a row of dialogues costs what
they cost alone, half of that saved once more since each is causal. In float32, also where the matrix products around it
are in bfloat16: the backward pass of torch's kernel is slower in bfloat16 for sequences this short.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AttentionInterface

WITHIN_DIALOGUES = "within_dialogues"
"""Name of this attention among those of transformers. It keeps no cache: for training only."""


def lengths(documents: NDArray[np.int64]) -> list[list[int]]:
    """Tokens of each run of equal numbers, for every row of `documents` (rows, length)."""
    ends = [np.flatnonzero(np.diff(row, append=-1)) + 1 for row in documents]
    return [np.diff(row, prepend=0).tolist() for row in ends]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, heads, T, D)
    key: torch.Tensor,  # (B, kv_heads, T, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dialogues: list[list[int]] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each of `dialogues` (of every row the lengths, in order; None: one to a row)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    rows = []
    for row, sizes in enumerate(dialogues or [[query.shape[2]]] * len(query)):
        q, k, v = (x[row : row + 1].float().split(sizes, 2) for x in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            attended = [
                F.scaled_dot_product_attention(*part, is_causal=True, scale=scaling)
                for part in zip(q, k, v, strict=True)
            ]
        rows.append(torch.cat(attended, 2))
    return torch.cat(rows).transpose(1, 2).to(query.dtype), None  # (B, T, heads, D)


AttentionInterface.register(WITHIN_DIALOGUES, _attend)
