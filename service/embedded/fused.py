"""The fast path's forward pass as calls into the kernel (`kernel.c`): a few for a decode step, one for a stretch of a
prompt. Rows that decode are shared out among threads; each goes all the way by itself."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from service.embedded.kernel import Panels, addresses
from service.embedded.kv_cache import KvCache
from service.embedded.llama_lora import Deltas, LlamaAdapter, LowRank, RowGroup, RowGroups, own
from service.embedded.llama_weights import LlamaWeights
from service.embedded.model import DecodeBatch, Stretch

WORTH_A_THREAD = 8  # rows: each thread reads all weights, and HTTP wants a core too

MOST_PARTS = 3  # `PARTS` of kernel.c

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class _Model(ctypes.Structure):
    """`Model` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in
          ("layers", "hidden", "inner", "query_heads", "kv_heads", "head_dim")),
        ("norm_eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in
          ("embedding", "rotation", "head", "final_norm", "matrices", "biases", "norms", "query_norms", "key_norms")),
    )  # fmt: skip


class _Adapter(ctypes.Structure):
    """`Adapter` of kernel.c."""

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
        self.threads = threads
        self._model = _Model(
            shape.layers, shape.hidden_size, shape.intermediate_size, shape.query_heads, shape.kv_heads,
            shape.head_dim, shape.norm_eps,
            weights.embedding.data_ptr(), rotation.data_ptr(), cast(Panels, weights.head).address,
            weights.final_norm.data_ptr(), *map(ctypes.addressof, (matrices, biases, norms, query_norms, key_norms)),
        )  # fmt: skip

    def added(self, adapter: LlamaAdapter | None) -> _Added:
        """What an adapter adds, laid out once for as long as it lives."""
        if adapter is None:
            return self._nothing
        found = self._added.get(adapter)
        if found is None:
            found = self._added[adapter] = _Added(adapter.deltas)
        return found

    @cached_property
    def helpers(self) -> ThreadPoolExecutor:
        """The threads beside the one that asks."""
        return ThreadPoolExecutor(max(1, self.threads - 1), thread_name_prefix="forward")

    def scratch(self, added: _Added, tokens: int, capacity: int) -> Tensor:
        """Room for a pass over so many tokens."""
        model = ctypes.addressof(self._model)
        return torch.empty(self._functions.scratch_size(model, added.address, tokens, capacity))

    def prefill(self, cache: KvCache, stretches: Sequence[Stretch]) -> list[Tensor]:
        """Stretches of different rows; their logits as `Model.prefill` says."""
        planes = addresses(cache.views)

        def compute(stretch: Stretch) -> Tensor:
            count = len(stretch.tokens)
            first = 0 if stretch.every else count - 1
            logits = torch.empty(count - first, self.vocab)
            rows, positions = torch.full((count,), stretch.row), torch.arange(stretch.start, stretch.start + count)
            added = self.added(own(stretch.adapter))
            self(
                added, planes, cache.capacity, rows, stretch.tokens, positions, first,
                self.scratch(added, count, cache.capacity), logits,
            )  # fmt: skip
            return logits

        return self.share_out(compute, stretches)

    def share_out(self, compute: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
        """`compute` of every part, each in whichever thread is free first, this one among them."""
        if self.threads == 1 or len(parts) == 1:
            return [compute(part) for part in parts]
        left = enumerate(parts)  # every thread takes the next of them
        results: dict[int, _Result] = {}

        def work() -> None:
            for number, part in left:
                results[number] = compute(part)

        helpers = [self.helpers.submit(work) for _ in range(min(self.threads, len(parts)) - 1)]
        work()
        for helper in helpers:
            helper.result()
        return [results[number] for number in range(len(parts))]

    def __call__(
        self, added: _Added, planes: ctypes.Array[ctypes.c_void_p], capacity: int,
        rows: Tensor, tokens: Tensor, positions: Tensor, first: int, scratch: Tensor, logits: Tensor,
    ) -> None:  # fmt: skip
        """`forward` of kernel.c; `rows`, `tokens` and `positions` `(count,)`."""
        self._functions.forward(
            ctypes.addressof(self._model), added.address, planes, capacity, rows.data_ptr(), tokens.data_ptr(),
            positions.data_ptr(), len(rows), first, scratch.data_ptr(), logits.data_ptr(),
        )  # fmt: skip


@dataclass(frozen=True)
class _Share:
    """Rows `start` to `stop` of a batch, in batch order, which one thread computes with one adapter."""

    start: int
    stop: int
    added: _Added
    scratch: Tensor


class FusedStep:
    """The decode steps of one batch, until rows join or leave."""

    def __init__(self, forward: FusedForward, batch: DecodeBatch, groups: RowGroups) -> None:
        self._forward = forward
        self._groups = groups
        self._planes = addresses(batch.cache.views)
        self._rows = groups.to_batch_order(torch.arange(batch.rows))
        self._shares = [
            _Share(start, stop, added, forward.scratch(added, stop - start, batch.capacity))
            for group in groups.groups
            for added in (forward.added(group.adapter),)
            for start, stop in _shares(group, batch.rows, forward.threads)
        ]

    def __call__(self, batch: DecodeBatch) -> Tensor:
        """One token for every row; logits `(rows, vocab)`."""
        logits = torch.empty(batch.rows, self._forward.vocab)
        tokens, positions = self._groups.to_batch_order(batch.tokens), self._groups.to_batch_order(batch.positions)

        def compute(share: _Share) -> None:
            mine = slice(share.start, share.stop)
            self._forward(
                share.added, self._planes, batch.capacity, self._rows[mine], tokens[mine], positions[mine], 0,
                share.scratch, logits[mine],
            )  # fmt: skip

        self._forward.share_out(compute, self._shares)
        return self._groups.to_cache_order(logits)


def _shares(group: RowGroup, rows: int, threads: int) -> Iterator[tuple[int, int]]:
    """A group's rows cut into shares of nearly equal size, so that a batch of `rows` occupies all threads."""
    count = group.stop - group.start
    most = max(WORTH_A_THREAD, -(-rows // threads))
    parts = -(-count // most)
    for part in range(parts):
        yield group.start + count * part // parts, group.start + count * (part + 1) // parts
