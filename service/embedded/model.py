"""What the engine asks of a model, and the rows that one decode step computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from service.embedded.crew import Crew
from service.embedded.kv_cache import KvCache, Plane
from service.embedded.lora import LoraAdapter, Rest, go_on

NEVER = float("-inf")


class Adapter(Protocol):
    """An adapter in the form in which its model computes with it."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Stretch:
    """The next tokens of a row's prompt: `tokens` `(t,)` from position `start` on."""

    row: int
    start: int
    tokens: torch.Tensor
    adapter: Adapter | None
    every: bool


class DecodeBatch:
    """The rows 0..n-1 of the cache, one token each; built when rows join or leave, advanced in place between.

    `tokens`, `positions` `(n,)`: each row's newest token and its position, which the coming step computes.
    `mask` `(n, 1, 1, capacity)`: 0 where a row may look, -inf elsewhere; None when there is a single row.
    """

    def __init__(
        self, cache: KvCache, tokens: Sequence[int], positions: Sequence[int], adapters: Sequence[Adapter | None]
    ) -> None:
        device, dtype = cache.views[0].device, cache.views[0].dtype
        self.cache = cache
        self.capacity = cache.capacity
        self.rows = len(tokens)
        self.tokens = torch.tensor(tokens, device=device)
        self.positions = torch.tensor(positions, device=device)
        self.longest = max(positions) + 1
        self.adapters = list(adapters)
        self.plan: object | None = None  # the model's own, for these rows and adapters, made once
        self._places: dict[int, torch.Tensor] = {}
        self._row_start = torch.arange(self.rows, device=device) * cache.capacity
        self._dtype = dtype
        self._mask: torch.Tensor | None = None

    @property
    def mask(self) -> torch.Tensor | None:
        """As the class says; made when it is first asked for."""
        if self._mask is None and self.rows > 1:
            seen = torch.arange(self.capacity, device=self.positions.device) <= self.positions[:, None]
            self._mask = torch.where(seen, 0.0, NEVER).to(self._dtype)[:, None, None, :].contiguous()
        return self._mask

    def places(self, heads: int) -> torch.Tensor:
        """`(n, heads)`: where a plane of `heads` heads keeps the new tokens, in vectors from the plane's start."""
        if heads not in self._places:
            first = torch.arange(self.rows, device=self.positions.device) * heads
            head = torch.arange(heads, device=self.positions.device)
            self._places[heads] = (first[:, None] + head) * self.capacity + self.positions[:, None]
        return self._places[heads]

    def advance(self, tokens: torch.Tensor) -> None:
        """Each row goes on with its entry of `tokens` `(n,)` at the next position."""
        self.tokens = tokens
        self.positions.add_(1)
        self.longest += 1
        for places in self._places.values():
            places.add_(1)
        if self._mask is not None:
            self._mask.view(-1).index_fill_(0, self._row_start + self.positions, 0.0)


def causal_mask(start: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`(count, start + count)`: what `count` tokens from position `start` on may look at."""
    mask = torch.full((count, start + count), NEVER, dtype=dtype, device=device)
    return mask.triu_(start + 1)


class Model(Protocol):
    """A causal language model over a `KvCache`; logits are float32."""

    planes: list[Plane]
    vocab_size: int
    dtype: torch.dtype
    device: torch.device
    weight_bytes: int
    crew: Crew | None  # that computes it, if compiled code does

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of every linear layer that a LoRA adapter may change, by PEFT's module name."""
        ...

    def prepare(self, adapter: LoraAdapter, rest: Rest = go_on) -> Adapter:
        """The adapter in this model's own form; runs beside decoding, in another thread."""
        ...

    def prefill(self, cache: KvCache, stretches: Sequence[Stretch]) -> list[torch.Tensor]:
        """Compute stretches of different rows; for each, logits `(t, vocab)` if it wants `every`, else `(1, vocab)`."""
        ...

    def decode(self, batch: DecodeBatch) -> torch.Tensor:
        """Compute one token for every row of the batch; logits `(rows, vocab)`."""
        ...

    def decode_beside(
        self, batch: DecodeBatch, stretches: Sequence[Stretch]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`decode` of the batch and `prefill` of stretches of other rows, in one pass where the model can."""
        ...
