"""The fast path: Llama, Mistral, Qwen2 and Qwen3 with our own fused forward.

Departures from the textbook, all exact up to rounding:

- Projections that read the same input are one matrix: query, key and value; gate and up. All are stored `(in, out)`.
- The halves that rotary embedding pairs are interleaved in the query and key weights, so that rotation is one complex
  multiplication. Scores do not change, because query and key are permuted alike.
- A small model on a CPU is computed by compiled code (`fused.py`).
- Heads that share a key head are treated as successive queries of that head, so grouped-query attention copies nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from service.embedded.crew import Crew
from service.embedded.fused import FusedForward, FusedStep
from service.embedded.kv_cache import KvCache, Plane
from service.embedded.llama_lora import LlamaAdapter, RowGroups, prepare_adapter
from service.embedded.llama_weights import LlamaShape, LlamaWeights, Matrix
from service.embedded.lora import LoraAdapter, Rest, go_on
from service.embedded.model import DecodeBatch, Stretch, causal_mask


@dataclass(frozen=True)
class _Prefill:
    """Attention of one row's next `count` tokens."""

    view_row: int
    start: int
    count: int
    mask: Tensor  # (group * count, start + count)

    def attend(self, shape: LlamaShape, view: Tensor, qkv: Tensor) -> Tensor:
        end = self.start + self.count
        row = view[self.view_row]
        row[:, self.start : end] = qkv[:, shape.query_heads :].transpose(0, 1)
        query = qkv[:, : shape.query_heads].view(self.count, shape.kv_heads, shape.group, shape.head_dim)
        query = query.permute(1, 2, 0, 3).reshape(1, shape.kv_heads, shape.group * self.count, shape.head_dim)
        keys, values = row[None, : shape.kv_heads, :end], row[None, shape.kv_heads :, :end]
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=self.mask)
        out = out.reshape(shape.query_heads, self.count, shape.head_dim)  # on a GPU heads may lie innermost
        return out.transpose(0, 1).reshape(self.count, -1)


@dataclass(frozen=True)
class _Decode:
    """Attention of one new token in every row; `groups` may hold the rows in another order than the cache."""

    batch: DecodeBatch
    places: Tensor
    mask: Tensor | None
    rows: RowGroups

    def attend(self, shape: LlamaShape, view: Tensor, qkv: Tensor) -> Tensor:
        count, longest = self.batch.rows, self.batch.longest
        view.view(-1, shape.head_dim).index_put_((self.places,), qkv[:, shape.query_heads :])
        query = qkv[:, : shape.query_heads].reshape(count, shape.kv_heads, shape.group, shape.head_dim)
        query = self.rows.to_cache_order(query)
        keys, values = view[:count, : shape.kv_heads, :longest], view[:count, shape.kv_heads :, :longest]
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=self.mask)
        return self.rows.to_batch_order(out.reshape(count, -1))


class Llama:
    """A `Model` of the Llama family; see the module's docstring for what it does differently."""

    def __init__(self, weights: LlamaWeights, threads: int = 1) -> None:
        self.weights = weights
        self.shape = weights.shape
        self.planes = [Plane(2 * self.shape.kv_heads, self.shape.head_dim)] * self.shape.layers
        self.vocab_size = self.shape.vocab_size
        self.dtype = weights.dtype
        self.device = weights.device
        self.weight_bytes = weights.nbytes
        self.crew = None if weights.kernel is None else Crew(weights.kernel, threads)
        self._fused = None if self.crew is None else FusedForward(weights, self.crew)

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        return self.shape.linear_shapes()

    def prepare(self, adapter: LoraAdapter, rest: Rest = go_on) -> LlamaAdapter:
        return prepare_adapter(self.weights, adapter, rest)

    def prefill(self, cache: KvCache, stretches: Sequence[Stretch]) -> list[Tensor]:
        if self._fused is not None:
            return self._fused.prefill(cache, stretches)
        return [self._prefill(cache, stretch) for stretch in stretches]

    def _prefill(self, cache: KvCache, stretch: Stretch) -> Tensor:
        start, tokens = stretch.start, stretch.tokens
        rows = RowGroups.of_one(self.weights, len(tokens), stretch.adapter)
        mask = causal_mask(start, len(tokens), self.dtype, self.device).repeat(self.shape.group, 1)
        rotation = self.weights.rotation[start : start + len(tokens)]
        attention = _Prefill(stretch.row, start, len(tokens), mask)
        hidden = self._layers(cache, self.weights.embedding[tokens], rotation, rows, attention)
        return self._logits(hidden if stretch.every else hidden[-1:])

    def decode(self, batch: DecodeBatch) -> Tensor:
        plan = batch.plan
        if plan is None:
            plan = batch.plan = self._plan(batch)
        if isinstance(plan, FusedStep):
            return plan(batch)
        assert isinstance(plan, RowGroups)
        return self._decode(batch, plan)

    def decode_beside(self, batch: DecodeBatch, stretches: Sequence[Stretch]) -> tuple[Tensor, list[Tensor]]:
        if self._fused is not None:
            return self._fused.decode_beside(batch, stretches)
        return self.decode(batch), self.prefill(batch.cache, stretches)

    def _plan(self, batch: DecodeBatch) -> RowGroups | FusedStep:
        rows = RowGroups.of_rows(self.weights, batch.adapters)
        return rows if self._fused is None else FusedStep(self._fused, batch, rows)

    def _decode(self, batch: DecodeBatch, rows: RowGroups) -> Tensor:
        tokens, positions = rows.to_batch_order(batch.tokens), rows.to_batch_order(batch.positions)
        places = rows.to_batch_order(batch.places(2 * self.shape.kv_heads))
        mask = None if batch.mask is None else batch.mask[..., : batch.longest]
        if mask is not None:
            mask = mask.expand(batch.rows, self.shape.kv_heads, self.shape.group, batch.longest)
        hidden = self.weights.embedding.index_select(0, tokens)
        rotation = self.weights.rotation.index_select(0, positions)
        hidden = self._layers(batch.cache, hidden, rotation, rows, _Decode(batch, places, mask, rows))
        return rows.to_cache_order(self._logits(hidden))

    def _layers(
        self, cache: KvCache, hidden: Tensor, rotation: Tensor, rows: RowGroups, step: _Prefill | _Decode
    ) -> Tensor:
        """All layers over `hidden` `(n, hidden_size)`."""
        shape = self.shape
        heads = shape.query_heads + 2 * shape.kv_heads
        for number, (view, layer) in enumerate(zip(cache.views, self.weights.layers, strict=True)):
            qkv = rows.project(number, Matrix.QKV, self._norm(hidden, layer.norms[Matrix.QKV]))
            qkv = qkv.view(-1, heads, shape.head_dim)
            self._rotate(qkv, rotation, layer.query_norm, layer.key_norm)
            hidden = rows.project_onto(number, Matrix.OUT, hidden, step.attend(shape, view, qkv))
            gate_up = rows.project(number, Matrix.GATE_UP, self._norm(hidden, layer.norms[Matrix.GATE_UP]))
            gate, up = gate_up.chunk(2, dim=-1)
            hidden = rows.project_onto(number, Matrix.DOWN, hidden, F.silu(gate).mul_(up))
        return hidden

    def _norm(self, hidden: Tensor, weight: Tensor | None) -> Tensor:
        return F.rms_norm(hidden, (self.shape.hidden_size,), weight, self.shape.norm_eps)

    def _rotate(self, qkv: Tensor, rotation: Tensor, query_norm: Tensor | None, key_norm: Tensor | None) -> None:
        """Rotate queries and keys in place; `rotation` `(n, 1, head_dim / 2)`, complex."""
        shape = self.shape
        if query_norm is not None and key_norm is not None:
            size = (shape.head_dim,)
            query, key = qkv[:, : shape.query_heads], qkv[:, shape.query_heads : shape.rotated_heads]
            query.copy_(F.rms_norm(query, size, query_norm, shape.norm_eps))
            key.copy_(F.rms_norm(key, size, key_norm, shape.norm_eps))
        rotated = qkv[:, : shape.rotated_heads].view(-1, shape.rotated_heads, shape.head_dim // 2, 2)
        if qkv.dtype == torch.float32:
            torch.view_as_complex(rotated).mul_(rotation)
        else:
            rotated.copy_(torch.view_as_real(torch.view_as_complex(rotated.float()) * rotation))

    def _logits(self, hidden: Tensor) -> Tensor:
        return (self._norm(hidden, self.weights.final_norm) @ cast(Tensor, self.weights.head)).float()
