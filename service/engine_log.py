"""What engines tell while the service runs goes to the log: whenever one is reached, at first or again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import structlog

from service.adapters.engine import EngineFacts
from service.engine import Engine
from service.engine_checks import shortcomings
from service.engine_probes import has_raw_logprobs
from service.errors import EngineRefused, EngineUnavailable
from service.settings import Settings

log = structlog.get_logger(__name__)


class EngineLog:
    """Of one engine. An engine that restarts may have been started otherwise than the one that was examined first."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings, self._engine = settings, engine
        self._trial: asyncio.Task[None] | None = None

    def told(self, url: str, facts: EngineFacts) -> None:
        """The engine was reached, or tells more now. Of vLLM it is tried out whether its log-probabilities are the
        model's own; with LoRA that is told of twice, and tried out once it has answered a request."""
        if self._trial is not None:
            self._trial.cancel()
            self._trial = None
        is_vllm = facts.server is not None and facts.server.startswith("vLLM")
        if is_vllm and (facts.slots is not None or not facts.has_lora):
            self._trial = asyncio.create_task(self._try_out(url, facts))
        else:
            self._say(url, facts)

    async def _try_out(self, url: str, facts: EngineFacts) -> None:
        with suppress(EngineRefused, EngineUnavailable):
            facts = replace(facts, raw_logprobs=await has_raw_logprobs(self._engine, facts.base))
        self._say(url, facts)

    def _say(self, url: str, facts: EngineFacts) -> None:
        """What it tells of itself, and what about that is wrong."""
        log.info("engine reached", engine=url, facts=facts.words)
        for shortcoming in shortcomings(facts, self._settings):
            log.warning("engine not as it should be", engine=url, what=shortcoming.what, mend=shortcoming.mend)
