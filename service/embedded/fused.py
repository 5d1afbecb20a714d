"""The fast path's forward pass as calls into the kernel (`kernel.c`): one for the rows of each adapter in a decode
step, one for a stretch of a prompt. Each is computed by a crew of threads together."""

import ctypes
from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor

from service.embedded.kernel import Panels, addresses
from service.embedded.kv_cache import KvCache
from service.embedded.llama_lora import Deltas, LlamaAdapter, LowRank, RowGroups, own
from service.embedded.llama_weights import LlamaWeights
from service.embedded.model import DecodeBatch, Stretch

MOST_PARTS = 3  # `PARTS` of layer.h


class _Model(ctypes.Structure):
    """`Model` of layer.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in
          ("layers", "hidden", "inner", "query_heads", "kv_heads", "head_dim")),
        ("norm_eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in
          ("embedding", "rotation", "head", "final_norm", "matrices", "biases", "norms", "query_norms", "key_norms")),
    )  # fmt: skip


class _Adapter(ctypes.Structure):
    """`Adapter` of layer.h."""

    _fields_ = (("rank", ctypes.c_int64), *((name, ctypes.c_void_p) for name in ("downs", "ups", "columns")))


class _Added:
    """What an adapter adds, as the kernel takes it; nothing for None."""

    def __init__(self, deltas: Deltas | None) -> None:
        self.address: int | None = None
        if deltas is None:
            return
        parts = [part for layer in deltas for of_matrix in layer for part in _padded(of_matrix)]
        downs = addresses([None if part is None else part.down for part in parts])
        ups = addresses([None if part is None else part.up for part in parts])
        columns = (ctypes.c_int64 * len(parts))(*(0 if part is None else part.start for part in parts))
        rank = max((part.rank for part in parts if part is not None), default=0)
        structure = _Adapter(rank, ctypes.addressof(downs), ctypes.addressof(ups), ctypes.addressof(columns))
        self.address = ctypes.addressof(structure)
        self._kept = (deltas, downs, ups, columns, structure)  # what the address leads to


def _padded(deltas: list[LowRank]) -> list[LowRank | None]:
    """As many as a matrix may have parts."""
    return [*deltas, *[None] * (MOST_PARTS - len(deltas))]


class FusedForward:
    """Forward passes of one model whose weights are in panels."""

    def __init__(self, weights: LlamaWeights, threads: int) -> None:
        shape = weights.shape
        if weights.kernel is None:
            raise ValueError("a fused forward pass takes weights in panels")
        rotation = torch.view_as_real(weights.rotation).contiguous()
        matrices = addresses([matrix for layer in weights.layers for matrix in layer.matrices])
        biases = addresses([bias for layer in weights.layers for bias in layer.biases])
        norms = addresses([norm for layer in weights.layers for norm in layer.norms])
        query_norms = addresses([layer.query_norm for layer in weights.layers])
        key_norms = addresses([layer.key_norm for layer in weights.layers])
        self._kept = (weights, rotation, matrices, biases, norms, query_norms, key_norms)  # what `_model` points to
        self._nothing = _Added(None)
        self._added: WeakKeyDictionary[LlamaAdapter, _Added] = WeakKeyDictionary()
        self._functions = weights.kernel.functions
        self.vocab = shape.vocab_size
        self._crew: int | None = self._functions.crew_start(threads)
        if self._crew is not None:
            finalize(self, self._functions.crew_end, self._crew)
        self._model = _Model(
            shape.layers, shape.hidden_size, shape.intermediate_size, shape.query_heads, shape.kv_heads,
            shape.head_dim, shape.norm_eps,
            weights.embedding.data_ptr(), rotation.data_ptr(), cast(Panels, weights.head).address,
            weights.final_norm.data_ptr(), *map(ctypes.addressof, (matrices, biases, norms, query_norms, key_norms)),
        )  # fmt: skip
        self._model_address = ctypes.addressof(self._model)

    def added(self, adapter: LlamaAdapter | None) -> _Added:
        """What an adapter adds, laid out once for as long as it lives."""
        if adapter is None:
            return self._nothing
        found = self._added.get(adapter)
        if found is None:
            found = self._added[adapter] = _Added(adapter.deltas)
        return found

    def scratch(self, added: _Added, tokens: int, capacity: int) -> Tensor:
        """Room for a pass over so many tokens."""
        return torch.empty(
            self._functions.scratch_size(self._model_address, added.address, tokens, capacity, self._crew)
        )

    def prefill(self, cache: KvCache, stretches: Sequence[Stretch]) -> list[Tensor]:
        """Stretches of different rows; their logits as `Model.prefill` says."""
        planes = addresses(cache.views)
        every_logits = []
        for stretch in stretches:
            count, added = len(stretch.tokens), self.added(own(stretch.adapter))
            first = 0 if stretch.every else count - 1
            rows, positions = torch.full((count,), stretch.row), torch.arange(stretch.start, stretch.start + count)
            scratch, logits = self.scratch(added, count, cache.capacity), torch.empty(count - first, self.vocab)
            self(
                added, planes, cache.capacity, rows.data_ptr(), stretch.tokens.data_ptr(), positions.data_ptr(), count,
                first, scratch.data_ptr(), logits.data_ptr(),
            )  # fmt: skip
            every_logits.append(logits)
        return every_logits

    def __call__(
        self, added: _Added, planes: ctypes.Array[ctypes.c_void_p], capacity: int,
        rows: int, tokens: int, positions: int, count: int, first: int, scratch: int, logits: int,
    ) -> None:  # fmt: skip
        """`forward` of kernel.c. What it reads and writes is given by address; rows, tokens and positions are int64."""
        self._functions.forward(
            self._model_address, added.address, planes, capacity, rows, tokens, positions, count, first, scratch,
            logits, self._crew,
        )  # fmt: skip


class FusedStep:
    """The decode steps of one batch, until rows join or leave: one pass for the rows of each adapter."""

    def __init__(self, forward: FusedForward, batch: DecodeBatch, groups: RowGroups) -> None:
        self._forward = forward
        self._groups = groups
        self._planes = addresses(batch.cache.views)
        self._rows = groups.to_batch_order(torch.arange(batch.rows))
        self._logits = torch.empty(batch.rows, forward.vocab)  # of the last step: sampled before the next
        self._passes = [
            (
                group.start,
                group.stop - group.start,
                added,
                forward.scratch(added, group.stop - group.start, batch.capacity),
            )
            for group in groups.groups
            for added in (forward.added(group.adapter),)
        ]

    def __call__(self, batch: DecodeBatch) -> Tensor:
        """One token for every row; logits `(rows, vocab)`, which the next step overwrites."""
        tokens, positions = self._groups.to_batch_order(batch.tokens), self._groups.to_batch_order(batch.positions)
        for start, count, added, scratch in self._passes:
            rows_before = start * tokens.itemsize
            self._forward(
                added, self._planes, batch.capacity, self._rows.data_ptr() + rows_before,
                tokens.data_ptr() + rows_before, positions.data_ptr() + rows_before, count, 0, scratch.data_ptr(),
                self._logits.data_ptr() + start * self._forward.vocab * self._logits.itemsize,
            )  # fmt: skip
        return self._groups.to_cache_order(self._logits)
