"""What each engine is, what is wrong and how to mend it: said when the service starts, and by `hone doctor`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePath

from service.adapters.engine import EngineFacts
from service.adapters.fingerprint import model_folder
from service.adapters.fleet import called_otherwise
from service.embedded.chat_template import CHAT_MODEL, NO_TEMPLATE, read_template
from service.engine import Engine
from service.engine_probes import try_out
from service.errors import BadInput, EngineRefused, HoneError, sentences
from service.settings import Settings
from service.vllm_options import FEWEST_SLOTS, LOGPROBS_MODE, option_number, option_value, split_options

ANSWER_SECONDS = 5.0
TRY_SECONDS = 60.0
"""For what is tried: the first request to a vLLM without a GPU waits while that compiles."""


@dataclass(frozen=True)
class Shortcoming:
    what: str
    mend: str

    @property
    def words(self) -> str:
        return sentences(self.what, self.mend)


@dataclass(frozen=True)
class EngineReport:
    """One engine: what it tells of itself, or None when it can't be asked, or needn't be; and what is wrong."""

    url: str
    facts: EngineFacts | None
    shortcomings: tuple[Shortcoming, ...]
    untold: str | None = None
    """What it doesn't tell, and somebody should see to."""

    @property
    def lines(self) -> Iterator[str]:
        """For people."""
        if self.facts is not None:
            yield f"Engine {self.url} {self.facts.words}"
        for one in self.shortcomings:
            yield f"Engine {self.url}: {one.words}"
        if self.untold is not None:
            yield f"Engine {self.url} doesn't tell everything. {self.untold}"


def examine_engines(settings: Settings, command_line: Sequence[str] = ()) -> list[EngineReport]:
    """Ask every engine of the settings, side by side, and try out what it doesn't tell; waits a minute at most.

    `command_line`: of the vLLM that we have started ourselves, if that is the one engine there is.
    """

    async def ask_all() -> list[EngineReport]:
        return await asyncio.gather(*(_ask(url, settings, command_line) for url in settings.engine.urls))

    reports = asyncio.run(ask_all())
    as_asked = [one for one in reports if one.facts is not None and other_model(settings, one.facts) is None]
    return [_held_against(as_asked[0], one) if one in as_asked[1:] else one for one in reports]


def shortcomings(facts: EngineFacts, settings: Settings) -> Iterator[Shortcoming]:
    """What an engine that answers can't do, and how to mend it."""
    yield from _another_model(facts, settings)
    yield from _short_context(facts, settings)
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
    if facts.sees_adapters is False:
        yield Shortcoming(
            f"It doesn't see the adapters folder {settings.adapters_folder}.",
            "Give it that folder under the same path, readable (docs/deploying.md).",
        )
    if facts.raw_logprobs is False:
        yield Shortcoming(
            "The log-probabilities of what it samples follow the temperature: they are not the model's own, which are "
            "kept with every reply and learned from.",
            f"Start vLLM with --logprobs-mode {LOGPROBS_MODE}.",
        )
    if facts.rank is not None and facts.rank < settings.learner.rank:
        yield Shortcoming(
            f"It takes adapters up to rank {facts.rank}, and the learner makes them with {settings.learner.rank}.",
            f"Start it with --max-lora-rank {settings.learner.rank}, or set learner.rank.",
        )


def other_model(settings: Settings, facts: EngineFacts) -> str | None:
    """That an engine serves another model than the settings name, in words; None where it doesn't."""
    return next((one.words for one in _another_model(facts, settings)), None)


def weights_problem(settings: Settings) -> Shortcoming | None:
    """That the engine of `hone up` serves other weights than a learner beside it trains against; None where it doesn't.

    Raises SettingsError for an open quote in engine.vllm_options.
    """
    engine = settings.engine
    if settings.learner.quantise != "nf4" or engine.urls or engine.weights is not None:
        return None
    if engine.kind == "vllm" and option_value(split_options(engine.vllm_options), "quantization", "q") is not None:
        return None  # it quantises the base itself as it loads it
    return Shortcoming(
        "The learner trains against NF4, and the engine of `hone up` serves the base's own weights: over those its "
        "adapters are normally refused.",
        "`hone base dequantise --out FOLDER` writes what NF4 leaves of them: name that folder in engine.weights.",
    )


def template_problem(settings: Settings) -> Shortcoming | None:
    """That the embedded engine of `hone up` would refuse every chat; None where it doesn't, or nothing can be told yet.

    vLLM may be given a template with its options.
    """
    engine = settings.engine
    if engine.urls or engine.kind != "embedded":
        return None
    with suppress(BadInput, OSError, ValueError):  # who serves the model will say what is wrong
        if read_template(model_folder(engine.weights or settings.model_path)) is None:
            return Shortcoming(NO_TEMPLATE, CHAT_MODEL)
    return None


def untold(facts: EngineFacts, settings: Settings) -> str | None:
    """How vLLM has to have been started where nobody can see it from outside; None for another engine."""
    if facts.server is None or not facts.server.startswith("vLLM"):
        return None
    options = ["--override-generation-config '{\"max_new_tokens\": null}'"]
    if facts.raw_logprobs is None:
        options.append(f"--logprobs-mode {LOGPROBS_MODE}")
    if facts.slots is None and facts.has_lora is not False:
        options.append(f"--max-loras {FEWEST_SLOTS} or more")
    if facts.rank is None and facts.has_lora is not False:
        options.append(f"--max-lora-rank {settings.learner.rank} or more")
    return f"See that it was started with {', '.join(options)}."


def _another_model(facts: EngineFacts, settings: Settings) -> Iterator[Shortcoming]:
    """Of names and folders the last part counts alone: in a container the same model lies under another path."""
    engine = settings.engine
    if settings.learner.quantise == "nf4" and engine.weights is None:
        return  # it has to serve what was dequantised, which may be called anything
    wanted = {engine.model, settings.model_path, engine.weights}
    if _names(wanted) & _names({facts.base, facts.root}):
        return
    under = f" ({facts.root})" if facts.root not in (None, facts.base) else ""
    yield Shortcoming(
        f"It serves another model: {facts.base}{under}; engine.model is {engine.model}.",
        f"Serve that there, take the engine out (`hone engines remove`), or name in engine.model what it serves; if it "
        f"is the same model, --served-model-name {engine.model}.",
    )


def _held_against(first: EngineReport, one: EngineReport) -> EngineReport:
    """Two that serve the model of the settings call it alike, or only one of them gets requests."""
    assert first.facts is not None and one.facts is not None
    if one.facts.base == first.facts.base:
        return one
    what = called_otherwise(one.facts.base, first.url, first.facts.base)
    return replace(one, shortcomings=(*one.shortcomings, Shortcoming(what, "")))


def _names(models: set[str | None]) -> set[str]:
    """What models given by folder or hub name are called, also where the folder is a link or the hub's cache."""
    given = {model for model in models if model}
    return {_last_part(path) for model in given for path in (model, os.path.realpath(model))}


def _last_part(model: str) -> str:
    """`Qwen3-4B` for `Qwen/Qwen3-4B`, `/models/Qwen3-4B` and `…/models--Qwen--Qwen3-4B/snapshots/1cfa9a7208`."""
    path = PurePath(model)
    cached = next((part for part in path.parts if part.startswith("models--")), None)
    return (path.name if cached is None else cached.rpartition("--")[2]).casefold()


def _short_context(facts: EngineFacts, settings: Settings) -> Iterator[Shortcoming]:
    longest, wanted = settings.chat.max_tokens, settings.engine.max_model_len
    needed = 2 * longest  # a prompt holds the replies before: room for one
    if facts.context is not None and facts.context < needed:
        yield Shortcoming(
            f"Its context is {facts.context} tokens, and a reply alone may have {longest} (chat.max_tokens).",
            f"Start it with --max-model-len {needed} or more, or set chat.max_tokens = {max(1, facts.context // 2)}.",
        )
    elif facts.context is not None and wanted is not None and facts.context < wanted:
        yield Shortcoming(
            f"Its context is {facts.context} tokens, fewer than engine.max_model_len ({wanted}).",
            f"Start it with --max-model-len {wanted}, or set engine.max_model_len = {facts.context}.",
        )


async def _ask(url: str, settings: Settings, command_line: Sequence[str]) -> EngineReport:
    engine = Engine(url, TRY_SECONDS, ANSWER_SECONDS)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            facts = await engine.facts()
        facts = await _find_out(engine, facts, settings, command_line)
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
    found = tuple(shortcomings(facts, settings))
    return EngineReport(url, facts, found, None if command_line else untold(facts, settings))


async def _find_out(engine: Engine, facts: EngineFacts, settings: Settings, command_line: Sequence[str]) -> EngineFacts:
    """What it doesn't tell: by how we have started it, else by trying; its slots vLLM tells after a first request."""
    if command_line:
        rank, slots = (option_number(command_line, name) for name in ("max-lora-rank", "max-loras"))
        facts = replace(facts, rank=facts.rank or rank, slots=facts.slots or slots)
    with suppress(TimeoutError):
        async with asyncio.timeout(TRY_SECONDS):
            facts = await try_out(engine, facts, settings.adapters_folder)
    if facts.has_lora and facts.slots is None:
        with suppress(TimeoutError, HoneError):
            async with asyncio.timeout(ANSWER_SECONDS):
                facts = replace(facts, slots=(await engine.facts()).slots)
    return facts
