"""LoRA on the fast path: rows are grouped by adapter, and each group is computed with its own weights.

An adapter is merged into a copy of the layers' matrices where that is exact (float32) and within the stated memory:
then it costs nothing at all. Otherwise its low-rank products are added to the base's, fused as the base's matrices are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.embedded.kernel import Weight, dense, multiply, multiply_onto
from service.embedded.llama_weights import PARTS, LlamaLayer, LlamaWeights, Matrix, fold_norm, interleave
from service.embedded.lora import LoraAdapter
from service.embedded.model import Adapter

LowRank = tuple[Tensor, Tensor]  # down (in, rank) and up (rank, out), the scale in the latter


@dataclass(eq=False)
class LlamaAdapter:
    """One adapter: `merged[layer][matrix]` replaces the base's matrix, or `deltas[layer][matrix]` is added to it."""

    name: str
    merged: list[list[Weight]] | None
    deltas: list[list[LowRank | None]] | None


def prepare_adapter(weights: LlamaWeights, adapter: LoraAdapter, merge: bool) -> LlamaAdapter:
    """The adapter in the fast path's form, merged or as low-rank products."""
    prefixes = [f"model.layers.{number}." for number in range(weights.shape.layers)]
    deltas = [
        [_fused_delta(weights, layer, adapter, prefix, matrix) for matrix in Matrix]
        for layer, prefix in zip(weights.layers, prefixes, strict=True)
    ]
    if not merge:
        return LlamaAdapter(adapter.name, None, deltas)
    merged = [
        [
            base if delta is None else weights.packed(torch.addmm(dense(base), *delta))
            for base, delta in zip(layer.matrices, row, strict=True)
        ]
        for layer, row in zip(weights.layers, deltas, strict=True)
    ]
    return LlamaAdapter(adapter.name, merged, None)


def _fused_delta(
    weights: LlamaWeights, layer: LlamaLayer, adapter: LoraAdapter, prefix: str, matrix: Matrix
) -> LowRank | None:
    """The adapter's parts of one fused matrix as a single low-rank product: downs side by side, ups on a diagonal."""
    sizes = weights.shape.linear_shapes()
    widths = [sizes[prefix + part][1] for part in PARTS[matrix]]
    norm = layer.norms[matrix] if weights.folded else None
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for index, part in enumerate(PARTS[matrix]):
        delta = adapter.deltas.get(prefix + part)
        if delta is None:
            continue
        down, up = delta.down.to(weights.device), delta.up.to(weights.device) * delta.scale
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            up = interleave(up, weights.shape.head_dim)
        downs.append((down if norm is None else fold_norm(down, norm)).t())
        before, after = sum(widths[:index]), sum(widths[index + 1 :])
        ups.append(torch.nn.functional.pad(up.t(), (before, after)))
    if not downs:
        return None
    return torch.cat(downs, dim=1).to(weights.dtype).contiguous(), torch.cat(ups).to(weights.dtype)


@dataclass(frozen=True)
class RowGroup:
    """Rows `start` to `stop` of the batch run with these matrices, by layer, plus these low-rank products."""

    start: int
    stop: int
    matrices: list[list[Weight]]
    deltas: list[list[LowRank | None]] | None


class RowGroups:
    """A batch's rows in groups of one adapter each.

    Batch order has the groups one after the other; where the cache's rows lie otherwise, `to_batch_order` and
    `to_cache_order` translate tensors whose first dimension is the row.
    """

    def __init__(self, weights: LlamaWeights, groups: list[RowGroup], order: Tensor | None) -> None:
        self.groups = groups
        self.biases = [layer.biases for layer in weights.layers]
        self._order = order
        self._inverse = None if order is None else torch.argsort(order)
        self.merged = all(group.deltas is None for group in groups)
        self._only = groups[0] if len(groups) == 1 and groups[0].deltas is None else None

    @staticmethod
    def of_one(weights: LlamaWeights, count: int, adapter: Adapter | None) -> "RowGroups":
        """`count` rows that all run with one adapter, or with none."""
        return RowGroups(weights, [_group(weights, 0, count, adapter)], None)

    @staticmethod
    def of_rows(weights: LlamaWeights, adapters: Sequence[Adapter | None]) -> "RowGroups":
        """One row for each entry of `adapters`."""
        first_seen = {id(adapter): number for number, adapter in reversed(list(enumerate(adapters)))}
        order = sorted(range(len(adapters)), key=lambda row: (first_seen[id(adapters[row])], row))
        groups: list[RowGroup] = []
        start = 0
        for place in range(1, len(order) + 1):
            if place == len(order) or adapters[order[place]] is not adapters[order[start]]:
                groups.append(_group(weights, start, place, adapters[order[start]]))
                start = place
        moved = order != list(range(len(order)))
        return RowGroups(weights, groups, torch.tensor(order, device=weights.device) if moved else None)

    def to_batch_order(self, rows: Tensor) -> Tensor:
        return rows if self._order is None else rows.index_select(0, self._order)

    def to_cache_order(self, rows: Tensor) -> Tensor:
        return rows if self._inverse is None else rows.index_select(0, self._inverse)

    def project(self, layer: int, matrix: Matrix, inputs: Tensor) -> Tensor:
        """`(rows, in)` through one fused matrix of a layer, each row with its own adapter: `(rows, out)`."""
        bias = self.biases[layer][matrix]
        if self._only is not None:
            outputs = multiply(inputs, self._only.matrices[layer][matrix])
        else:
            outputs = inputs.new_empty(len(inputs), self.groups[0].matrices[layer][matrix].shape[1])
            for group in self.groups:
                rows = slice(group.start, group.stop)
                multiply(inputs[rows], group.matrices[layer][matrix], out=outputs[rows])
            self._add_deltas(layer, matrix, inputs, outputs)
        return outputs if bias is None else outputs.add_(bias)

    def project_onto(self, layer: int, matrix: Matrix, residual: Tensor, inputs: Tensor) -> Tensor:
        """`residual` plus `project(layer, matrix, inputs)`; may write into `residual`."""
        bias = self.biases[layer][matrix]
        if self._only is None or bias is not None:
            return self.project(layer, matrix, inputs).add_(residual)
        return multiply_onto(residual, inputs, self._only.matrices[layer][matrix])

    def _add_deltas(self, layer: int, matrix: Matrix, inputs: Tensor, outputs: Tensor) -> None:
        for group in self.groups:
            delta = group.deltas[layer][matrix] if group.deltas else None
            if delta is not None:
                down, up = delta
                outputs[group.start : group.stop].addmm_(inputs[group.start : group.stop] @ down, up)


def _group(weights: LlamaWeights, start: int, stop: int, adapter: Adapter | None) -> RowGroup:
    base = [layer.matrices for layer in weights.layers]
    if adapter is None:
        return RowGroup(start, stop, base, None)
    if not isinstance(adapter, LlamaAdapter):
        raise TypeError(f"{adapter} was prepared for another model")
    return RowGroup(start, stop, adapter.merged or base, adapter.deltas)
