"""Where a method gets the policy's replies from: out of its own process, or of the engine that serves chats.

A method asks its sampler and doesn't know which it is (`learner.engine_sampler` has the other). A reply that an engine
sampled brings the engine's log-probabilities, which differ a little from the trainer's, so that what is learned from it
can be weighed (`learner.importance`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from learner import parallel
from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.sampling import Reply, Window, sample

Tell = Callable[[bool], None]
"""Called now and then while sampling goes on, with whether an engine is being waited for; it may raise to stop it."""


class Sampler(Window, Protocol):
    """Samples from the policy as it is at each call."""

    @property
    def left_out(self) -> int:
        """Prompts that it was asked for and asks no more, because no engine outlives them."""

    def sample(
        self, prompts: Sequence[TokenIds], *, per_prompt: int, max_new_tokens: int, seed: int, tell: Tell
    ) -> list[list[Reply]]:
        """`per_prompt` replies to each prompt at temperature 1, in the prompts' order; none to one that is left out."""


class InProcessSampler:
    """The backbone itself. The same seed, prompts and weights give the same replies."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    @property
    def max_length(self) -> int:
        return self._backbone.max_length

    @property
    def left_out(self) -> int:
        return 0

    def sample(
        self, prompts: Sequence[TokenIds], *, per_prompt: int, max_new_tokens: int, seed: int, tell: Tell
    ) -> list[list[Reply]]:
        return sample(self._backbone, prompts, per_prompt=per_prompt, max_new_tokens=max_new_tokens, seed=seed)


class SharedSampler:
    """Another sampler, asked by the first of the processes that train, for all of them."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    @property
    def max_length(self) -> int:
        return self._sampler.max_length

    @property
    def left_out(self) -> int:
        """Of the process that asks."""
        return self._sampler.left_out

    def sample(
        self, prompts: Sequence[TokenIds], *, per_prompt: int, max_new_tokens: int, seed: int, tell: Tell
    ) -> list[list[Reply]]:
        def tell_all(waits: bool) -> None:
            tell(waits)
            parallel.still_at_it()

        return parallel.from_first(
            lambda: self._sampler.sample(
                prompts, per_prompt=per_prompt, max_new_tokens=max_new_tokens, seed=seed, tell=tell_all
            )
        )
