"""What is measured after a round, on prompts that nobody trained on: preference won, and what it cost.

Only what the HTTP API says is used: replies, their log-probabilities, and `POST /v1/score` for those under the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from learner.evaluate.intervals import wilson
from learner.pretrain.questions import Prompt, is_right
from learner.simulate.client import Client, Reply, ServiceRefused
from learner.simulate.tastes import Prefer, words

T = TypeVar("T")
ANSWER_TOKENS = 128
ATTEMPTS = 3
SURVEYOR = "surveyor"
"""The name under which measurements are asked for: nobody gives feedback on them."""


@dataclass(frozen=True)
class Answers:
    """One model's replies to the held-out prompts, with each reply's log-probability under itself and the base."""

    replies: tuple[Reply, ...]
    base_logprobs: tuple[tuple[float, ...], ...]

    def at(self, places: Sequence[int]) -> Answers:
        """Those to some of the prompts."""
        return Answers(
            tuple(self.replies[place] for place in places), tuple(self.base_logprobs[place] for place in places)
        )

    @property
    def base_mean(self) -> float:
        """Mean log-probability per token under the base."""
        return _mean([value for reply in self.base_logprobs for value in reply])

    @property
    def kl_per_token(self) -> float:
        """Own less base's log-probability per token, on own samples: an estimate of KL(model ‖ base)."""
        own = _mean([value for reply in self.replies for value in reply.logprobs])
        return own - self.base_mean


@dataclass(frozen=True)
class Won:
    share: float
    low: float
    high: float
    ties: int


async def answer(client: Client, model: str, prompts: Sequence[Prompt], seed: int) -> Answers:
    """One sample at temperature 1 to each prompt, whatever `chat.best_of` says, scored under the base."""

    async def one(number: int, prompt: Prompt) -> tuple[Reply, tuple[float, ...]]:
        (reply,) = await client.chat(model, prompt.text, SURVEYOR, temperature=1.0, seed=seed + number, best_of=1)
        body = {"exchange_id": reply.exchange_id, "model": "hone:base", "user": SURVEYOR}
        scored = await client.call("POST", "/v1/score", body, SURVEYOR)
        return reply, tuple(scored["token_logprobs"][0])

    found = await _all([partial(one, number, prompt) for number, prompt in enumerate(prompts)])
    return Answers(tuple(reply for reply, _ in found), tuple(scores for _, scores in found))


async def accuracy(client: Client, model: str, questions: Sequence[Prompt]) -> float:
    """Share of questions answered right at temperature 0."""
    return _mean([float(right) for right in await answered_right(client, model, questions)])


async def answered_right(client: Client, model: str, questions: Sequence[Prompt]) -> list[bool]:
    async def one(prompt: Prompt) -> bool:
        sampling = {"temperature": 0.0, "max_tokens": ANSWER_TOKENS}
        (reply,) = await client.chat(model, prompt.text, SURVEYOR, **sampling)
        return is_right(prompt, reply.text)

    return await _all([partial(one, prompt) for prompt in questions])


def share_won(prefer: Prefer, prompts: Sequence[Prompt], ours: Sequence[Reply], theirs: Sequence[Reply]) -> Won:
    """One comparison a prompt; ties are counted and left out of the share. Wilson's 95 % interval."""
    likings = [
        prefer(prompt.text, own.text, other.text) for prompt, own, other in zip(prompts, ours, theirs, strict=True)
    ]
    won, decided = sum(liking > 0 for liking in likings), sum(liking != 0 for liking in likings)
    return Won(won / decided if decided else 0.5, *wilson(won, decided), ties=len(likings) - decided)


def figures(won: Won, ours: Answers, base: Answers) -> dict[str, Any]:
    """What is told of a model's replies, by the names of `--json`."""
    texts = [reply.text for reply in ours.replies]
    return {
        "share_won": round(won.share, 4),
        "share_won_low": round(won.low, 4),
        "share_won_high": round(won.high, 4),
        "ties": won.ties,
        "fluency": round(ours.base_mean - base.base_mean, 4),
        "empty": sum(not text.strip() for text in texts),
        "mean_length": round(mean_length(texts), 2),
        "distinct_2": round(distinct_2(texts), 4),
        "kl_per_token": round(ours.kl_per_token, 4),
    }


def distinct_2(texts: Sequence[str]) -> float:
    """Distinct word pairs over all word pairs (Li et al. 2016, arXiv 1510.03055); 0 where there are none."""
    pairs = [pair for text in texts for pair in zip(words(text), words(text)[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def mean_length(texts: Sequence[str]) -> float:
    """In words."""
    return _mean([float(len(words(text))) for text in texts])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What can't be done without is asked again when it failed (and was counted). Raises ServiceRefused in the end."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await ask()
        except ServiceRefused:
            await asyncio.sleep(1.0)
    return await ask()


async def _all(work: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """All at once, every answer being needed."""
    return list(await asyncio.gather(*(patiently(ask) for ask in work)))
