"""LoRA on the fast path: rows are grouped by adapter. The base's product is one for all rows, and to the rows of each
group the low-rank products of its adapter are added, fused as the base's matrices are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from service.embedded.kernel import Weight
from service.embedded.llama_weights import PARTS, LlamaWeights, Matrix, interleave
from service.embedded.lora import LoraAdapter
from service.embedded.model import Adapter


@dataclass(frozen=True)
class LowRank:
    """`x @ down @ up` is added to a matrix's product: `down` `(in, rank)`, `up` `(rank, out)`, scaled."""

    down: Weight
    up: Weight
    rank: int


Deltas = list[list[LowRank | None]]
"""By layer and `Matrix`; None where nothing is added."""


@dataclass(eq=False)
class LlamaAdapter:
    """One adapter."""

    name: str
    deltas: Deltas


def prepare_adapter(weights: LlamaWeights, adapter: LoraAdapter) -> LlamaAdapter:
    """The adapter in the fast path's form."""
    prefixes = [f"model.layers.{number}." for number in range(weights.shape.layers)]
    return LlamaAdapter(
        adapter.name, [[_fused_delta(weights, adapter, prefix, matrix) for matrix in Matrix] for prefix in prefixes]
    )


def _fused_delta(weights: LlamaWeights, adapter: LoraAdapter, prefix: str, matrix: Matrix) -> LowRank | None:
    """The adapter's parts of one fused matrix as a single low-rank product: downs side by side, ups on a diagonal."""
    sizes = weights.shape.linear_shapes()
    widths = [sizes[prefix + part][1] for part in PARTS[matrix]]
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for index, part in enumerate(PARTS[matrix]):
        delta = adapter.deltas.get(prefix + part)
        if delta is None:
            continue
        down, up = delta.down.to(weights.device), delta.up.to(weights.device) * delta.scale
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            up = interleave(up, weights.shape.head_dim)
        downs.append(down.t())
        before, after = sum(widths[:index]), sum(widths[index + 1 :])
        ups.append(torch.nn.functional.pad(up.t(), (before, after)))
    if not downs:
        return None
    down, up = (torch.cat(downs, dim=1).to(weights.dtype), torch.cat(ups).to(weights.dtype))
    return LowRank(weights.packed(down), weights.packed(up), len(up))


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

    def to_batch_order(self, rows: Tensor) -> Tensor:
        return rows if self._order is None else rows.index_select(0, self._order)

    def to_cache_order(self, rows: Tensor) -> Tensor:
        return rows if self._inverse is None else rows.index_select(0, self._inverse)

    def project(self, layer: int, matrix: Matrix, inputs: Tensor) -> Tensor:
        """`(rows, in)` through one fused matrix of a layer, each row with its own adapter: `(rows, out)`. By torch."""
        outputs = inputs @ cast(Tensor, self._layers[layer].matrices[matrix])
        for group in self.groups:
            delta = group.adapter.deltas[layer][matrix] if group.adapter else None
            if delta is not None:
                rows = slice(group.start, group.stop)
                outputs[rows].addmm_(inputs[rows] @ cast(Tensor, delta.down), cast(Tensor, delta.up))
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
