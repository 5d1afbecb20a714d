"""What the rollout needs of an engine: the part of `service.engine.Engine` that adapters depend on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.errors import EngineAway
from service.side_by_side import side_by_side

Text = tuple[Sequence[int], Sequence[int]]
"""The token ids of a prompt and of its reply."""


class EngineBrokeOff(EngineAway):
    """It had the request and went away over it, or fell silent: what was asked may be why."""


class LoadedModel(Protocol):
    """A model that the engine holds: the base (`parent` is None) or an adapter, under a name, from a path."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def parent(self) -> str | None: ...


@dataclass(frozen=True)
class EngineFacts:
    """What an engine tells of itself; None where it doesn't say. vLLM says its rank only when it refuses a larger one
    (`service.engine_probes`)."""

    base: str
    server: str | None = None
    """Name and version, where it names one."""
    root: str | None = None
    """The folder or hub name that the base was loaded from."""
    has_lora: bool | None = None
    """Whether it was started with LoRA at all."""
    loads_adapters: bool | None = None
    """Whether adapters can be loaded while it runs."""
    slots: int | None = None
    rank: int | None = None
    """Largest rank of an adapter."""
    context: int | None = None
    """Most tokens of a prompt and its reply."""
    raw_logprobs: bool | None = None
    """Whether the log-probabilities of sampled tokens are the model's own, whatever the temperature."""
    sees_adapters: bool | None = None
    """Whether it sees the service's adapters folder under the same path."""

    @property
    def words(self) -> str:
        """One line for people."""
        loading = {True: "on", False: "OFF", None: "not told"}
        told = [
            self.server or "version not told",
            f"LoRA {loading[self.has_lora]}, loading at run time {loading[self.loads_adapters]}",
            f"{_or_not_told(self.slots)} slots, rank up to {_or_not_told(self.rank)}",
            f"context {_or_not_told(self.context)} tokens",
        ]
        if self.raw_logprobs is not None:
            told.append(f"log-probabilities {'' if self.raw_logprobs else 'NOT '}the model's own")
        if self.sees_adapters is not None:
            told.append(f"adapters folder {'' if self.sees_adapters else 'NOT '}seen")
        return f"serves {self.base}: {'; '.join(told)}"


class AdapterEngine(Protocol):
    """An engine by URL. All that reach it raise EngineUnavailable or EngineRefused."""

    @property
    def url(self) -> str: ...
    async def is_healthy(self) -> bool: ...
    async def models(self) -> Sequence[LoadedModel]: ...
    async def facts(self) -> EngineFacts: ...
    async def load_adapter(self, name: str, path: str) -> None: ...
    async def unload_adapter(self, name: str) -> None: ...
    def salt_cache(self, name: str, salt: str) -> None:
        """Have what is computed of prompts under an adapter reused under the same salt alone."""
        ...

    async def score(self, model: str, prompt: Sequence[int], reply: Sequence[int]) -> Sequence[float]:
        """Natural log-probability of each token of `reply` under a model, computed anew."""
        ...

    async def next_token(self, model: str, tokens: Sequence[int]) -> tuple[int, float]:
        """The likeliest token after `tokens` and its natural log-probability, as any reply begins: from the prefix
        cache, where that has them."""
        ...


async def score_all(engine: AdapterEngine, model: str, texts: Iterable[Text]) -> list[Sequence[float]]:
    """The scores of all replies; none is computed any more when one fails or the caller is cancelled."""
    return await side_by_side(engine.score(model, prompt, reply) for prompt, reply in texts)


def _or_not_told(number: int | None) -> str:
    return "(not told)" if number is None else str(number)
