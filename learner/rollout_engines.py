"""Which engines sample for a training, on what terms, and whether they can: asked before it begins, so that nothing is
learned in vain for an engine that could never have sampled for it, and again in each round."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from learner.engine_client import EngineClient
from service.adapters.engine import EngineFacts
from service.errors import EngineRefused, EngineUnavailable, TrainingFailed
from service.settings import Settings

log = logging.getLogger("hone.learner")


@dataclass(frozen=True)
class Engines:
    """The settings of the same names say more."""

    urls: tuple[str, ...]
    folder: Path  # of passing adapters; the engines read it under the same path
    slots: int  # adapters that an engine may hold, with those that serve chats
    context: int | None = None  # tokens of prompt and reply that they take; None: as many as the model
    wait_seconds: float = 900.0
    tolerance: float = 0.2
    timeout_seconds: float = 120.0
    silence_seconds: float = 15.0
    serving: tuple[str, ...] = ()  # of the URLs, those of engines that serve chats meanwhile
    reserved: int = 0  # slots that serving chats takes: live, canary and what is kept for a rollback

    @classmethod
    def of(cls, settings: Settings) -> Engines:
        engine, learner = settings.engine, settings.learner
        return cls(
            urls=learner.rollout_urls or engine.urls,
            folder=passing_folder(settings),
            slots=engine.max_loras,
            context=engine.max_model_len,
            wait_seconds=learner.rollout_wait_seconds,
            tolerance=learner.rollout_tolerance,
            timeout_seconds=engine.timeout_seconds,
            silence_seconds=engine.silence_seconds,
            serving=engine.urls,
            reserved=settings.rollout.keep_loaded + 2,
        )

    def clients(self) -> list[EngineClient]:
        return [EngineClient(url, self.timeout_seconds) for url in self.urls]

    def slots_of(self, facts: EngineFacts) -> int:
        """What the settings say, and never more than the engine does."""
        return min(self.slots, self.slots if facts.slots is None else facts.slots)

    def require(self, url: str, facts: EngineFacts, max_length: int, rank: int) -> None:
        """Raises TrainingFailed where an engine can never sample for this training: adapters of `rank`, prompts and
        replies of `max_length` tokens together. What it doesn't tell is taken to be well."""
        if facts.has_lora is False or facts.loads_adapters is False:
            raise TrainingFailed(
                f"The engine at {url} can't load adapters while it runs, which the policy in training needs.",
                "Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or set learner.rollouts = "
                '"trainer".',
            )
        if facts.context is not None and facts.context < max_length:
            raise TrainingFailed(
                f"The engine at {url} takes {facts.context} tokens of prompt and reply, and the training reckons with "
                f"{max_length}.",
                f"Start the engine with a context of {max_length} (vLLM: --max-model-len), or set engine.max_model_len "
                f"= {facts.context}, so that only what fits is sampled.",
            )
        if facts.rank is not None and facts.rank < rank:
            raise TrainingFailed(
                f"The engine at {url} takes adapters up to rank {facts.rank}, and the policy's is {rank}.",
                f"Start the engine with --max-lora-rank {rank}, or set learner.rank.",
            )

    def require_slots(self, url: str, facts: EngineFacts) -> None:
        """Raises TrainingFailed where an engine has no slot for the policy by the side of what it serves. vLLM may tell
        how many it has only when a training is under way; that one waits for a free slot, then."""
        slots, needed = self.slots_of(facts), 1 + (self.reserved if url in self.serving else 0)
        if slots < needed:
            beside = ": live, canary, those kept for a rollback (rollout.keep_loaded) and the policy in training"
            raise TrainingFailed(
                f"The engine at {url} has {slots} slots for adapters, and {needed} are needed"
                f"{beside if needed > 1 else ''}.",
                f"Start the engine with --max-loras {needed} or more, and set engine.max_loras to no less; or lower "
                "rollout.keep_loaded, or name engines of their own with learner.rollout_urls.",
            )


def passing_folder(settings: Settings) -> Path:
    """Beside the versions, whose folder every engine sees."""
    return settings.adapters_folder / "passing"


def check_engines(engines: Engines, max_length: int, rank: int) -> None:
    """Raises TrainingFailed where one of the engines that answer can never sample for this training. One that is away
    may be another by the time that it is asked: then it is looked at."""

    async def look() -> None:
        for client in engines.clients():
            async with client:
                try:
                    facts = await client.facts()
                except (EngineUnavailable, EngineRefused) as error:
                    log.warning("What the engine at %s can do isn't known yet. %s", client.url, error)
                else:
                    engines.require(client.url, facts, max_length, rank)
                    engines.require_slots(client.url, facts)

    asyncio.run(look())
