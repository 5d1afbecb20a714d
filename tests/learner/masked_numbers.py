"""Numbers of which only those under a mask count."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()


def numbers(seed: int = 0, like: Tensor = MASK) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places(mask: Tensor = MASK) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in mask.nonzero()]


def spoiled(values: Tensor, mask: Tensor = MASK) -> Tensor:
    """The same, with NaN and infinity outside the mask."""
    return torch.where(mask, values, torch.tensor([math.nan, math.inf] * 12).double().reshape(4, 6))
