"""The fast path's forward pass as calls into the kernel (`kernel.c`): one for all rows of a step and the prompts beside
them, whatever adapters they have. Each is computed by a crew of threads together."""

import ctypes
from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from service.embedded.crew import Crew
from service.embedded.kernel import Panels, addresses
from service.embedded.kv_cache import KvCache
from service.embedded.llama_lora import Deltas, LlamaAdapter, LowRank, RowGroup, RowGroups
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


class _Group(ctypes.Structure):
    """`Group` of layer.h."""

    _fields_ = (("start", ctypes.c_int64), ("stop", ctypes.c_int64), ("adapter", ctypes.c_void_p))


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

    def __init__(self, weights: LlamaWeights, crew: Crew) -> None:
        shape = weights.shape
        rotation = torch.view_as_real(weights.rotation).contiguous()
        matrices = addresses([matrix for layer in weights.layers for matrix in layer.matrices])
        biases = addresses([bias for layer in weights.layers for bias in layer.biases])
        norms = addresses([norm for layer in weights.layers for norm in layer.norms])
        query_norms = addresses([layer.query_norm for layer in weights.layers])
        key_norms = addresses([layer.key_norm for layer in weights.layers])
        self._kept = (weights, rotation, matrices, biases, norms, query_norms, key_norms)  # what `_model` points to
        self._weights = weights
        self._nothing = _Added(None)
        self._added: WeakKeyDictionary[LlamaAdapter, _Added] = WeakKeyDictionary()
        self._functions = crew.kernel.functions
        self._crew = crew
        self.vocab = shape.vocab_size
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

    def groups(self, groups: Sequence[RowGroup]) -> "Groups":
        """The rows' groups as the kernel takes them."""
        return Groups(groups, [self.added(group.adapter) for group in groups])

    def scratch(self, groups: "Groups", tokens: int, capacity: int) -> Tensor:
        """Room for a pass over so many tokens."""
        return torch.empty(
            self._functions.scratch_size(
                self._model_address, groups.address, groups.count, tokens, capacity, self._crew.address
            )
        )

    def prefill(self, cache: KvCache, stretches: Sequence[Stretch]) -> list[Tensor]:
        """Stretches of different rows; their logits as `Model.prefill` says."""
        order = RowGroups.of_rows(self._weights, [stretch.adapter for stretch in stretches])
        groups, numbers = list[RowGroup](), order.in_batch_order()
        rows, positions, wanted, wants = list[int](), list[int](), list[int](), list[int]()
        for group in order.groups:
            first = len(rows)
            for stretch in (stretches[number] for number in numbers[group.start : group.stop]):
                count, end = len(stretch.tokens), len(rows) + len(stretch.tokens)
                rows += [cache.place_of(stretch.row)] * count
                positions += range(stretch.start, stretch.start + count)
                wants.append(count if stretch.every else 1)
                wanted += range(end - wants[-1], end)
            groups.append(RowGroup(first, len(rows), group.adapter))
        tokens = torch.cat([stretches[number].tokens for number in numbers])
        given = (ctypes.c_int64 * (2 * len(rows) + len(wanted)))(*rows, *positions, *wanted)
        of_rows, size = ctypes.addressof(given), len(rows) * tokens.itemsize
        of_kernel, logits = self.groups(groups), torch.empty(len(wanted), self.vocab)
        scratch = self.scratch(of_kernel, len(rows), cache.capacity)
        self(
            of_kernel, addresses(cache.views), cache.capacity, of_rows, tokens.data_ptr(), of_rows + size, len(rows),
            of_rows + 2 * size, len(wanted), scratch.data_ptr(), logits.data_ptr(),
        )  # fmt: skip
        found = dict(zip(numbers, logits.split(wants), strict=True))
        return [found[number] for number in range(len(stretches))]

    def decode_beside(self, batch: DecodeBatch, stretches: Sequence[Stretch]) -> tuple[Tensor, list[Tensor]]:
        """As `Model.decode_beside` says: a decoding row is a stretch of one token."""
        rows = zip(batch.tokens.split(1), batch.positions.tolist(), batch.adapters, strict=True)
        ones = [Stretch(row, start, token, adapter, False) for row, (token, start, adapter) in enumerate(rows)]
        logits = self.prefill(batch.cache, [*ones, *stretches])
        return torch.cat(logits[: batch.rows]), logits[batch.rows :]

    def __call__(
        self, groups: "Groups", planes: ctypes.Array[ctypes.c_void_p], capacity: int, rows: int, tokens: int,
        positions: int, count: int, wanted: int | None, wants: int, scratch: int, logits: int,
    ) -> None:  # fmt: skip
        """`forward` of kernel.c. What it reads and writes is given by address; rows, tokens, positions and `wanted` are
        int64."""
        self._functions.forward(
            self._model_address, groups.address, groups.count, planes, capacity, rows, tokens, positions, count,
            wanted, wants, scratch, logits, self._crew.address,
        )  # fmt: skip


class Groups:
    """Which tokens of a pass have which adapter, as the kernel takes it."""

    def __init__(self, groups: Sequence[RowGroup], added: Sequence[_Added]) -> None:
        self.count = len(groups)
        rows = (_Group(one.start, one.stop, its.address) for one, its in zip(groups, added, strict=True))
        self._kept = (_Group * self.count)(*rows), added
        self.address = ctypes.addressof(self._kept[0])


class FusedStep:
    """The decode steps of one batch, until rows join or leave."""

    def __init__(self, forward: FusedForward, batch: DecodeBatch, rows: RowGroups) -> None:
        self._forward = forward
        self._rows = rows
        self._groups = forward.groups(rows.groups)
        self._planes = addresses(batch.cache.views)
        self._places = rows.to_batch_order(torch.tensor([batch.cache.place_of(row) for row in range(batch.rows)]))
        self._logits = torch.empty(batch.rows, forward.vocab)  # of the last step: sampled before the next
        self._scratch = forward.scratch(self._groups, batch.rows, batch.capacity)

    def __call__(self, batch: DecodeBatch) -> Tensor:
        """One token for every row; logits `(rows, vocab)`, which the next step overwrites."""
        tokens, positions = self._rows.to_batch_order(batch.tokens), self._rows.to_batch_order(batch.positions)
        self._forward(
            self._groups, self._planes, batch.capacity, self._places.data_ptr(), tokens.data_ptr(),
            positions.data_ptr(), batch.rows, None, batch.rows, self._scratch.data_ptr(), self._logits.data_ptr(),
        )  # fmt: skip
        return self._rows.to_cache_order(self._logits)
