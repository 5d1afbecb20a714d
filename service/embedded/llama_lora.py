"""LoRA on the fast path: rows are grouped by adapter, and its low-rank products are added to those of the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from service.embedded.kernel import Weight
from service.embedded.llama_weights import PARTS, LlamaWeights, Matrix, interleave
from service.embedded.lora import LoraAdapter, Rest
from service.embedded.model import Adapter


@dataclass(frozen=True)
class LowRank:
    """`x @ down @ up` is added to a product's columns from `start` on; `down` `(in, rank)`, `up` `(rank, out)`."""

    down: Weight
    up: Weight
    rank: int
    start: int


Deltas = list[list[list[LowRank]]]
"""What is added, by layer and `Matrix`."""


@dataclass(eq=False)
class LlamaAdapter:
    """One adapter."""

    name: str
    deltas: Deltas


def prepare_adapter(weights: LlamaWeights, adapter: LoraAdapter, rest: Rest) -> LlamaAdapter:
    """The adapter in the fast path's form."""
    deltas: Deltas = []
    for number in range(weights.shape.layers):
        prefix = f"model.layers.{number}."
        deltas.append([_deltas(weights, adapter, prefix, matrix, rest) for matrix in Matrix])
    return LlamaAdapter(adapter.name, deltas)


def _deltas(weights: LlamaWeights, adapter: LoraAdapter, prefix: str, matrix: Matrix, rest: Rest) -> list[LowRank]:
    """The adapter's parts of one fused matrix: each for itself where compiled code computes them, else as one."""
    sizes = weights.shape.linear_shapes()
    widths = [sizes[prefix + part][1] for part in PARTS[matrix]]
    found: list[tuple[Tensor, Tensor, int]] = []
    for index, part in enumerate(PARTS[matrix]):
        delta = adapter.deltas.get(prefix + part)
        if delta is None:
            continue
        down, up = delta.down.to(weights.device), delta.up.to(weights.device) * delta.scale
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            up = interleave(up, weights.shape.head_dim)
        found.append((down.t(), up.t(), sum(widths[:index])))
    if len(found) > 1 and weights.kernel is None:
        found = [_fused(found, sum(widths))]
    products = []
    for down, up, start in found:
        packed = weights.packed(down.to(weights.dtype)), weights.packed(up.to(weights.dtype))
        products.append(LowRank(*packed, len(up), start))
        rest()
    return products


def _fused(parts: list[tuple[Tensor, Tensor, int]], width: int) -> tuple[Tensor, Tensor, int]:
    """Parts as a single low-rank product: downs side by side, ups on a diagonal. Torch's calls cost more than zeros."""
    downs, ups, starts = zip(*parts, strict=True)
    placed = [F.pad(up, (start, width - start - up.shape[1])) for up, start in zip(ups, starts, strict=True)]
    return torch.cat(downs, dim=1), torch.cat(placed), 0


@dataclass(frozen=True)
class RowGroup:
    """Rows `start` to `stop` of the batch run with this adapter, or with none."""

    start: int
    stop: int
    adapter: LlamaAdapter | None


class RowGroups:
    """A batch's rows in groups of one adapter each.

    Batch order has the groups one after the other; where the cache's rows lie otherwise, `to_batch_order` and
    `to_cache_order` translate tensors whose first dimension is the row.
    """

    def __init__(self, weights: LlamaWeights, groups: list[RowGroup], order: Tensor | None) -> None:
        self.groups = groups
        self._layers = weights.layers
        self._order = order
        self._inverse = None if order is None else torch.argsort(order)
        self._plain = all(group.adapter is None for group in groups)

    @staticmethod
    def of_one(weights: LlamaWeights, count: int, adapter: Adapter | None) -> "RowGroups":
        """`count` rows that all run with one adapter, or with none."""
        return RowGroups(weights, [RowGroup(0, count, own(adapter))], None)

    @staticmethod
    def of_rows(weights: LlamaWeights, adapters: Sequence[Adapter | None]) -> "RowGroups":
        """One row for each entry of `adapters`."""
        first_seen = {id(adapter): number for number, adapter in reversed(list(enumerate(adapters)))}
        order = sorted(range(len(adapters)), key=lambda row: (first_seen[id(adapters[row])], row))
        groups: list[RowGroup] = []
        start = 0
        for place in range(1, len(order) + 1):
            if place == len(order) or adapters[order[place]] is not adapters[order[start]]:
                groups.append(RowGroup(start, place, own(adapters[order[start]])))
                start = place
        moved = order != list(range(len(order)))
        return RowGroups(weights, groups, torch.tensor(order, device=weights.device) if moved else None)

    def in_batch_order(self) -> list[int]:
        """The numbers of the rows, group by group."""
        return list(range(self.groups[-1].stop)) if self._order is None else self._order.tolist()

    def to_batch_order(self, rows: Tensor) -> Tensor:
        return rows if self._order is None else rows.index_select(0, self._order)

    def to_cache_order(self, rows: Tensor) -> Tensor:
        return rows if self._inverse is None else rows.index_select(0, self._inverse)

    def project(self, layer: int, matrix: Matrix, inputs: Tensor) -> Tensor:
        """`(rows, in)` through one fused matrix of a layer, each row with its own adapter: `(rows, out)`. By torch."""
        outputs = inputs @ cast(Tensor, self._layers[layer].matrices[matrix])
        for group in self.groups:
            rows = slice(group.start, group.stop)
            for delta in group.adapter.deltas[layer][matrix] if group.adapter else ():
                down, up = cast(Tensor, delta.down), cast(Tensor, delta.up)
                outputs[rows, delta.start : delta.start + up.shape[1]].addmm_(inputs[rows] @ down, up)
        bias = self._layers[layer].biases[matrix]
        return outputs if bias is None else outputs.add_(bias)

    def project_onto(self, layer: int, matrix: Matrix, residual: Tensor, inputs: Tensor) -> Tensor:
        """`residual` plus `project(layer, matrix, inputs)`."""
        if not self._plain or self._layers[layer].biases[matrix] is not None:
            return self.project(layer, matrix, inputs).add_(residual)
        return torch.addmm(residual, inputs, cast(Tensor, self._layers[layer].matrices[matrix]))


def own(adapter: Adapter | None) -> LlamaAdapter | None:
    """The adapter as one of this module's. Raises TypeError for one that was prepared for another kind of model."""
    if adapter is not None and not isinstance(adapter, LlamaAdapter):
        raise TypeError(f"{adapter} was prepared for another model")
    return adapter
