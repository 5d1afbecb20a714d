"""Attention within the segments of a row of tokens, on a CPU.

Short segments go through torch's kernel whole. Longer ones are cut into blocks of queries, and of each block's scores
only those are computed that it sees: a prompt's tokens those before them, a reply's the prompt and the reply so far.
Torch's kernel computes what a mask hides as well, half of all where two replies share a prompt and more where four do.
Query heads that share a key head are rows of one matrix product, so that no keys and values are copied for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
"""Queries in a block."""
SHORT = 256
"""Tokens of a segment up to which torch's kernel is as fast, for all that it computes in vain."""
KEPT_KEYS = 1024
"""Of a block, up to which its shares of attention are kept for the backward pass, beside which the layer keeps several
times as much; where there are more they are computed again (as in FlashAttention, arXiv 2205.14135)."""


@dataclass(frozen=True)
class Block:
    """Queries `start` to `stop` of a segment, which see its first `shared` tokens and those from `begin` up to
    themselves."""

    shared: int
    begin: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def keys(self) -> int:
        return self.shared + self.stop - self.begin

    def seen(self, of_tokens: Tensor) -> Tensor:
        """The part of `(heads, T, D)` that it sees: (heads, keys, D)."""
        if self.shared == self.begin:
            return of_tokens[:, : self.stop]
        return torch.cat([of_tokens[:, : self.shared], of_tokens[:, self.begin : self.stop]], 1)

    def add_seen(self, to: Tensor, slopes: Tensor) -> None:
        """Add `(heads, keys, D)` to that part of `to`."""
        to[:, : self.shared] += slopes[:, : self.shared]
        to[:, self.begin : self.stop] += slopes[:, self.shared :]


@dataclass(frozen=True)
class Segment:
    """So many tokens of a row, which see each other and no others, each those up to itself."""

    length: int
    replies: tuple[int, ...] = ()
    """How long those at its end are that see themselves and what stands before them all, but not each other."""

    @property
    def prompt(self) -> int:
        """How many tokens all others see."""
        return self.length - sum(self.replies)

    @cached_property
    def mask(self) -> Tensor | None:
        """What each token sees: (length, length) bool, row by row. None: all up to itself."""
        if not self.replies:
            return None
        sees = torch.zeros(self.length, self.length, dtype=torch.bool)
        sees[:, : self.prompt] = True
        for start, end in pairwise(accumulate(self.replies, initial=self.prompt)):
            sees[start:end, start:end] = True
        return sees.tril()

    def blocks(self) -> Iterator[Block]:
        """All its queries."""
        ends = pairwise(accumulate(self.replies, initial=self.prompt))
        for shared, begin, end in [(0, 0, self.prompt), *((self.prompt, *reply) for reply in ends)]:
            for start in range(begin, end, BLOCK):
                yield Block(shared, begin, start, min(start + BLOCK, end))


def attend_segments(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, segments: Sequence[Sequence[Segment]]
) -> Tensor:
    """Attention of B rows, cut into `segments` each: (B, heads, T, D), twice (B, kv_heads, T, D) → (B, T, heads, D).

    In float32: the backward pass of torch's kernel is slower in bfloat16 for sequences this short.
    """
    rows = list[Tensor]()
    with torch.autocast("cpu", enabled=False):
        for parts, *row in zip(segments, query, key, value, strict=True):
            lengths = [part.length for part in parts]
            each = zip(*(states.float().split(lengths, 1) for states in row), parts, strict=True)
            rows.append(torch.cat([_attend(q, k, v, part, scaling) for q, k, v, part in each], 1))
    return torch.stack(rows).transpose(1, 2).to(query.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor, segment: Segment, scaling: float) -> Tensor:
    """Of one segment: (heads, T, D), twice (kv_heads, T, D) → (heads, T, D)."""
    if segment.length > SHORT:
        blocked: Tensor = _Blocked.apply(query, key, value, scaling, segment)  # type: ignore[no-untyped-call]  # torch's
        return blocked
    q, k, v = (x.unsqueeze(0) for x in (query, key, value))
    return F.scaled_dot_product_attention(
        q, k, v, segment.mask, is_causal=segment.mask is None, scale=scaling, enable_gqa=len(query) > len(key)
    ).squeeze(0)


class _Blocked(torch.autograd.Function):
    """Attention of one segment, block by block; what each computes is `softmax(scaling · Q Kᵀ) V`, and backwards
    FlashAttention's equations (arXiv 2205.14135, appendix B.4)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, segment: Segment) -> Tensor:
        query = query.unflatten(0, (len(key), -1))  # (kv_heads, group, T, D)
        out = torch.empty(query.shape)
        blocks, kept = list(segment.blocks()), list[Tensor | None]()
        for block in blocks:
            shares = _shares(query, key, block, scaling)
            rows = _rows(out, block)
            rows.copy_(torch.bmm(shares, block.seen(value)).view(rows.shape))
            kept.append(shares if block.keys <= KEPT_KEYS else None)
        ctx.blocks, ctx.scaling = blocks, scaling
        ctx.save_for_backward(query, key, value, out, *kept)
        return out.flatten(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, *kept = ctx.saved_tensors
        gradient = gradient.unflatten(0, (len(key), -1))
        of_query, of_key, of_value = torch.empty(query.shape), torch.zeros(key.shape), torch.zeros(value.shape)
        averages = (gradient * out).sum(-1, keepdim=True)
        for block, shares in zip(ctx.blocks, kept, strict=True):
            if shares is None:
                shares = _shares(query, key, block, ctx.scaling)
            slopes = _rows(gradient, block).flatten(1, 2)  # (kv_heads, group · rows, D)
            of_scores = torch.bmm(slopes, block.seen(value).transpose(1, 2))
            of_scores.sub_(_rows(averages, block).flatten(1, 2)).mul_(shares).mul_(ctx.scaling)
            block.add_seen(of_value, torch.bmm(shares.transpose(1, 2), slopes))
            block.add_seen(of_key, torch.bmm(of_scores.transpose(1, 2), _rows(query, block).flatten(1, 2)))
            rows = _rows(of_query, block)
            rows.copy_(torch.bmm(of_scores, block.seen(key)).view(rows.shape))
        return of_query.flatten(0, 1), of_key, of_value, None, None


def _rows(of_queries: Tensor, block: Block) -> Tensor:
    return of_queries[:, :, block.start : block.stop]


def _shares(query: Tensor, key: Tensor, block: Block, scaling: float) -> Tensor:
    """How each query of a block attends to the keys that it sees: (kv_heads, group · rows, keys)."""
    rows = _rows(query, block)
    scores = torch.bmm(rows.flatten(1, 2), block.seen(key).transpose(1, 2)).mul_(scaling)
    later = torch.full((block.rows, block.rows), -torch.inf).triu_(1)  # only of its own tokens are any to come
    scores.view(*rows.shape[:3], -1)[..., -block.rows :] += later
    return torch.softmax(scores, -1)
