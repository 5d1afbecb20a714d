"""The fast path's forward pass as calls into the kernel (`kernel.c`): one for each adapter in a decode step, one for a
stretch of a prompt. Rows that decode are shared out among threads; each goes all the way by itself."""

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from service.embedded.kernel import Panels, address, addresses
from service.embedded.kv_cache import KvCache
from service.embedded.llama_lora import RowGroup, RowGroups
from service.embedded.llama_weights import LlamaWeights
from service.embedded.model import DecodeBatch

WORTH_A_THREAD = 4  # rows


class _Model(ctypes.Structure):
    """`Model` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in
          ("layers", "hidden", "inner", "query_heads", "kv_heads", "head_dim", "vocab")),
        ("norm_square", ctypes.c_float), ("head_eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in
          ("embedding", "rotation", "head", "biases", "query_norms", "key_norms")),
    )  # fmt: skip


class FusedForward:
    """Forward passes of one model whose weights are in panels."""

    def __init__(self, weights: LlamaWeights, threads: int) -> None:
        shape = weights.shape
        if weights.kernel is None or not isinstance(weights.head, Panels):
            raise ValueError("a fused forward pass takes weights in panels")
        rotation = torch.view_as_real(weights.rotation).contiguous()
        biases = addresses([bias for layer in weights.layers for bias in layer.biases])
        query_norms = addresses([layer.query_norm for layer in weights.layers])
        key_norms = addresses([layer.key_norm for layer in weights.layers])
        self._kept = (weights, rotation, biases, query_norms, key_norms)  # what the structure points to
        self._functions = weights.kernel.functions
        self.vocab = shape.vocab_size
        self.threads = threads
        self._model = _Model(
            shape.layers, shape.hidden_size, shape.intermediate_size, shape.query_heads, shape.kv_heads,
            shape.head_dim, shape.vocab_size, shape.hidden_size * shape.norm_eps, shape.norm_eps,
            weights.embedding.data_ptr(), rotation.data_ptr(), weights.head.blocks.data_ptr(),
            ctypes.addressof(biases), ctypes.addressof(query_norms), ctypes.addressof(key_norms),
        )  # fmt: skip

    @cached_property
    def helpers(self) -> ThreadPoolExecutor:
        """The threads beside the one that asks."""
        return ThreadPoolExecutor(max(1, self.threads - 1), thread_name_prefix="forward")

    def scratch(self, tokens: int, capacity: int) -> Tensor:
        """Room for a pass over so many tokens."""
        size = ctypes.c_int64
        return torch.empty(self._functions.scratch_size(ctypes.byref(self._model), size(tokens), size(capacity)))

    def prefill(self, cache: KvCache, row: int, start: int, tokens: Tensor, group: RowGroup, every: bool) -> Tensor:
        """The next `tokens` `(t,)` of one row; logits `(t, vocab)` if `every`, else `(1, vocab)`."""
        count = len(tokens)
        first = 0 if every else count - 1
        logits = torch.empty(count - first, self.vocab)
        rows, positions = torch.full((count,), row), torch.arange(start, start + count)
        self(
            addresses(cache.views), cache.capacity, matrix_addresses(group), rows, tokens, positions, first,
            self.scratch(count, cache.capacity), logits,
        )  # fmt: skip
        return logits

    def __call__(
        self, planes: ctypes.Array[ctypes.c_void_p], capacity: int, matrices: ctypes.Array[ctypes.c_void_p],
        rows: Tensor, tokens: Tensor, positions: Tensor, first: int, scratch: Tensor, logits: Tensor,
    ) -> None:  # fmt: skip
        """`forward` of kernel.c; `rows`, `tokens` and `positions` `(count,)`."""
        size = ctypes.c_int64
        self._functions.forward(
            ctypes.byref(self._model), planes, size(capacity), matrices, address(rows), address(tokens),
            address(positions), size(len(rows)), size(first), address(scratch), address(logits),
        )  # fmt: skip


@dataclass(frozen=True)
class _Share:
    """Rows `start` to `stop` of a batch, in batch order, which one thread computes with one adapter."""

    start: int
    stop: int
    matrices: ctypes.Array[ctypes.c_void_p]
    scratch: Tensor


class FusedStep:
    """The decode steps of one batch, until rows join or leave; its groups are all merged."""

    def __init__(self, forward: FusedForward, batch: DecodeBatch, groups: RowGroups) -> None:
        self._forward = forward
        self._groups = groups
        self._planes = addresses(batch.cache.views)
        self._rows = groups.to_batch_order(torch.arange(batch.rows))
        self._shares = [
            _Share(start, stop, matrix_addresses(group), forward.scratch(stop - start, batch.capacity))
            for group in groups.groups
            for start, stop in _shares(group, batch.rows, forward.threads)
        ]

    def __call__(self, batch: DecodeBatch) -> Tensor:
        """One token for every row; logits `(rows, vocab)`."""
        logits = torch.empty(batch.rows, self._forward.vocab)
        tokens, positions = self._groups.to_batch_order(batch.tokens), self._groups.to_batch_order(batch.positions)

        def compute(share: _Share) -> None:
            own = slice(share.start, share.stop)
            self._forward(
                self._planes, batch.capacity, share.matrices, self._rows[own], tokens[own], positions[own], 0,
                share.scratch, logits[own],
            )  # fmt: skip

        mine, *others = self._shares
        if others:
            elsewhere = [self._forward.helpers.submit(compute, share) for share in others]
            compute(mine)
            wait(elsewhere)
            for done in elsewhere:
                done.result()
        else:
            compute(mine)
        return self._groups.to_cache_order(logits)


def _shares(group: RowGroup, rows: int, threads: int) -> Iterator[tuple[int, int]]:
    """A group's rows cut into shares of nearly equal size, so that a batch of `rows` occupies all threads."""
    count = group.stop - group.start
    most = max(WORTH_A_THREAD, -(-rows // threads))
    parts = -(-count // most)
    for part in range(parts):
        yield group.start + count * part // parts, group.start + count * (part + 1) // parts


def matrix_addresses(group: RowGroup) -> ctypes.Array[ctypes.c_void_p]:
    """Where the panels of a group's matrices are, layer by layer."""
    matrices = [matrix for layer in group.matrices for matrix in layer]
    return addresses([matrix.blocks for matrix in matrices if isinstance(matrix, Panels)])
