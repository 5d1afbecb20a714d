"""Choosing the next token of every row at once, each row by its own settings and its own random numbers.

A row draws one uniform number a token and inverts its cumulative distribution with it, so what it samples depends on
its seed and its own logits alone, never on the rows beside it. Restrictions follow the order that vLLM uses: the
temperature first, then min-p, top-k, and top-p (nucleus sampling, Holtzman et al., arXiv 1904.09751).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.embedded.crew import Chooser, Crew
from service.embedded.messages import SamplingParams, TokenLogprob

HEAD = 64  # restricted rows first try their likeliest tokens alone: sorting a whole vocabulary is dear
BELOW_ONE = 1 - 2**-22  # a draw that rounds to one would fall off the distribution's end


@dataclass(frozen=True)
class Sampled:
    """One step's tokens `(rows,)`, and what was asked for about their raw log-probabilities.

    Unless the logits were `finite`, the tokens of some rows mean nothing.
    """

    tokens: Tensor
    logprobs: list[float] | None
    top: list[list[TokenLogprob] | None] | None
    finite: bool


class Sampler:
    """Samples for a fixed set of rows, with a `crew` by compiled code; built when rows join or leave.

    Compiled code leaves those that top-p, top-k or min-p restrict to torch, and no other: how one row is computed does
    not depend on what the rows beside it ask for.
    """

    def __init__(
        self,
        params: Sequence[SamplingParams],
        draws: Sequence[random.Random],
        device: torch.device,
        crew: Crew | None = None,
    ) -> None:
        self._draws = draws
        self._device = device
        self._greedy = [p.temperature == 0 for p in params]
        self._wants_logprobs = any(p.logprobs is not None for p in params)
        self._top = [p.logprobs or 0 for p in params]
        temperatures = torch.tensor([p.temperature for p in params], dtype=torch.float32)
        self._chooser = None if crew is None else Chooser(crew, temperatures, self._wants_logprobs)
        self._divisor = temperatures.masked_fill(temperatures == 0, 1.0)[:, None].to(device)
        restricted = [
            row for row, p in enumerate(params) if p.temperature and (p.top_p < 1 or p.top_k > 0 or p.min_p > 0)
        ]
        self._restricted = torch.tensor(restricted, device=device) if restricted else None
        if restricted:
            self._top_p = torch.tensor([[params[row].top_p] for row in restricted], device=device)
            self._top_k = torch.tensor([[params[row].top_k or 2**31] for row in restricted], device=device)
            self._min_p = torch.tensor([[params[row].min_p] for row in restricted], device=device)
            self._truncated = (self._top_k < 2**31) | (self._min_p > 0)

    def __call__(self, logits: Tensor) -> Sampled:
        """`logits` `(rows, vocab)`, float32."""
        draws = [0.0 if greedy else rng.random() for greedy, rng in zip(self._greedy, self._draws, strict=True)]
        rows: Tensor | slice | None = self._restricted  # whose log-probabilities torch computes
        if self._chooser is not None:
            chosen = self._chooser(logits, draws)
            tokens, of_tokens, finite = chosen.tokens, chosen.log_probs, not chosen.broken
        else:
            tokens, finite = self._choose(logits, draws), math.isfinite(logits.sum().item())
            of_tokens = torch.empty(len(tokens), device=self._device) if self._wants_logprobs else None
            rows = slice(None)
        if self._restricted is not None:
            tokens[self._restricted] = self._choose_restricted(self._restricted, logits, draws)
        log_probs = torch.log_softmax(logits, dim=-1) if any(self._top) else None
        if of_tokens is not None and rows is not None:
            own = torch.log_softmax(logits[rows], dim=-1) if log_probs is None else log_probs[rows]
            of_tokens[rows] = own.gather(1, tokens[rows, None])[:, 0]
        top = None if log_probs is None else self._likeliest(log_probs)
        return Sampled(tokens, None if of_tokens is None else of_tokens.tolist(), top, finite)

    def _uniform(self, draws: Sequence[float]) -> Tensor:
        """`(rows, 1)`"""
        return torch.tensor(draws, device=self._device).clamp_(max=BELOW_ONE)[:, None]

    def _choose(self, logits: Tensor, draws: Sequence[float]) -> Tensor:
        """By torch, as if no row were restricted."""
        if all(self._greedy):
            return logits.argmax(dim=-1)
        tokens = invert(torch.softmax(logits / self._divisor, dim=-1), self._uniform(draws))
        if any(self._greedy):
            greedy = torch.tensor(self._greedy, device=self._device)
            tokens = torch.where(greedy, logits.argmax(dim=-1), tokens)
        return tokens

    def _choose_restricted(self, rows: Tensor, logits: Tensor, draws: Sequence[float]) -> Tensor:
        """Sample from each restricted row's likeliest tokens, kept by its top-p, top-k and min-p."""
        probabilities, uniform = torch.softmax(logits[rows] / self._divisor[rows], dim=-1), self._uniform(draws)[rows]
        size = logits.shape[-1]
        for count in sorted({min(HEAD, size), size}):
            likeliest, tokens = probabilities.topk(count, dim=-1)
            rank = torch.arange(count, device=self._device)
            allowed = (rank < self._top_k) & (likeliest >= self._min_p * likeliest[:, :1])
            weights = likeliest * allowed
            open_ended = allowed[:, -1:]  # top-k and min-p reach beyond what we look at
            total = torch.where(open_ended, 1.0, weights.sum(dim=-1, keepdim=True))
            kept = allowed & (weights.cumsum(dim=-1) - weights < self._top_p * total)
            kept[:, 0] = True
            if count == size or not (kept[:, -1:] | open_ended & self._truncated).any():
                break
        return tokens.gather(1, invert(weights * kept, uniform)[:, None])[:, 0]

    def _likeliest(self, logprobs: Tensor) -> list[list[TokenLogprob] | None]:
        values, tokens = logprobs.topk(min(max(self._top), logprobs.shape[-1]), dim=-1)
        table = zip(self._top, tokens.tolist(), values.tolist(), strict=True)
        return [
            [TokenLogprob(t, v, rank) for rank, (t, v) in enumerate(zip(ids[:k], vs[:k], strict=True), 1)]
            if k
            else None
            for k, ids, vs in table
        ]


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The entry of each row of `weights` `(rows, n)`, not negative, that `uniform` `(rows, 1)` in [0, 1) falls on.

    An entry of weight zero is never chosen.
    """
    cumulative = weights.cumsum(dim=-1)
    target = uniform * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=weights.shape[-1] - 1)


def prompt_logprobs(logits: Tensor, following: Sequence[int], top: int) -> list[list[TokenLogprob]]:
    """For each prompt position's `logits` `(t, vocab)`: the token that followed it, then the `top` likeliest."""
    logprobs = torch.log_softmax(logits, dim=-1)
    targets = torch.tensor(following, device=logits.device)[:, None]
    chosen = logprobs.gather(1, targets)
    ranks = (logprobs > chosen).sum(dim=-1).add_(1).tolist()
    entries = [
        [TokenLogprob(token, value, rank)]
        for token, value, rank in zip(following, chosen[:, 0].tolist(), ranks, strict=True)
    ]
    if top:
        values, tokens = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
        for entry, ids, vs in zip(entries, tokens.tolist(), values.tolist(), strict=True):
            entry.extend(TokenLogprob(t, v, rank) for rank, (t, v) in enumerate(zip(ids, vs, strict=True), 1))
    return entries
