"""What each engine is, what is wrong and how to mend it: said when the service starts, and by `hone doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from service.adapters.engine import EngineFacts
from service.engine import Engine
from service.errors import EngineRefused, HoneError
from service.settings import Settings

ANSWER_SECONDS = 5.0
FEWEST_SLOTS = 3
"""Old, new and canary: with fewer, the old and the new adapter push each other out during a swap."""


@dataclass(frozen=True)
class Shortcoming:
    what: str
    mend: str


@dataclass(frozen=True)
class EngineReport:
    """One engine: what it tells of itself, or None when it can't be asked; and what is wrong."""

    url: str
    facts: EngineFacts | None
    shortcomings: tuple[Shortcoming, ...]

    @property
    def lines(self) -> Iterator[str]:
        """For people."""
        if self.facts is not None:
            yield f"Engine {self.url} {self.facts.words}"
        for one in self.shortcomings:
            yield f"Engine {self.url}: {one.what} {one.mend}"


def examine_engines(settings: Settings) -> list[EngineReport]:
    """Ask every engine of the settings, side by side; waits for none longer than a few seconds."""

    async def ask_all() -> list[EngineReport]:
        return await asyncio.gather(*(_ask(url, settings) for url in settings.engine.urls))

    reports = asyncio.run(ask_all())
    bases = {report.facts.base for report in reports if report.facts is not None}
    if len(bases) < 2:
        return reports
    differ = Shortcoming(
        f"The engines serve different models ({', '.join(sorted(bases))}); the first that is ready decides.",
        "Serve one base model everywhere, under one name (--served-model-name).",
    )
    return [EngineReport(one.url, one.facts, (*one.shortcomings, differ)) for one in reports]


def shortcomings(facts: EngineFacts, settings: Settings) -> Iterator[Shortcoming]:
    """What an engine that answers can't do, and how to mend it."""
    if facts.has_lora is False:
        yield Shortcoming("It was started without LoRA.", "Start vLLM with --enable-lora.")
    if facts.loads_adapters is False:
        yield Shortcoming(
            "It can't load adapters while it runs.", "Start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
        )
    wanted = settings.engine.max_loras
    if facts.slots is not None and facts.slots < FEWEST_SLOTS:
        yield Shortcoming(
            f"It has {facts.slots} slots for adapters, and a swap needs {FEWEST_SLOTS}.",
            f"Start it with --max-loras {wanted}.",
        )
    elif facts.slots is not None and facts.slots < wanted:
        yield Shortcoming(
            f"It has {facts.slots} slots for adapters, fewer than engine.max_loras ({wanted}): only so many are used.",
            f"Start it with --max-loras {wanted}, or set engine.max_loras = {facts.slots}.",
        )
    if facts.rank is not None and facts.rank < settings.learner.rank:
        yield Shortcoming(
            f"It takes adapters up to rank {facts.rank}, and the learner makes them with {settings.learner.rank}.",
            f"Start it with --max-lora-rank {settings.learner.rank}, or set learner.rank.",
        )


async def _ask(url: str, settings: Settings) -> EngineReport:
    engine = Engine(url, ANSWER_SECONDS, ANSWER_SECONDS)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            facts = await engine.facts()
    except TimeoutError:
        silent = Shortcoming(f"It did not answer within {ANSWER_SECONDS:g} s.", "Look at its log.")
        return EngineReport(url, None, (silent,))
    except EngineRefused as error:
        stranger = Shortcoming(f"It answers, but not as vLLM does: {error.message}", "Check engine.urls.")
        return EngineReport(url, None, (stranger,))
    except HoneError as error:
        return EngineReport(url, None, (Shortcoming(error.message, error.hint),))
    finally:
        await engine.close()
    return EngineReport(url, facts, tuple(shortcomings(facts, settings)))
