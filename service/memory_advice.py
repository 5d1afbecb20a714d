"""Where a model, its adapters and the learner don't fit a GPU: what they need of it, and what people can change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from service.engine_program import vllm_rank
from service.errors import SettingsError
from service.gpu_memory import ALLOWANCE, GIB, Demand, divide
from service.gpus import Gpu
from service.settings import Settings, fewest_slots

LEAST_CONTEXT = 2048
"""Tokens: nobody is advised to take a shorter one."""

Saving = tuple[str, Callable[[Demand], Demand]]
"""A setting as it stands in hone.toml, and what it makes of a demand."""


def refusal(settings: Settings, gpu: Gpu, demand: Demand) -> SettingsError:
    """The error that says what doesn't fit, in numbers, and what to change."""
    engine, learner = demand.engine, demand.learner
    needs = (
        f"vLLM needs {_gib(engine.least)} GiB (weights {_gib(engine.weights)}, {engine.slots} adapters of rank "
        f"{engine.rank} {_gib(engine.adapters)}, one conversation of {engine.context:,} tokens "
        f"{_gib(engine.full_context)}, {_gib(ALLOWANCE)} to work with)"
    )
    if learner is not None:
        needs += (
            f", the learner {_gib(learner.least)} GiB (base{' in NF4' if learner.nf4 else ''} {_gib(learner.base)}, "
            f"adapter and optimizer {_gib(learner.lora)}, the smallest step {_gib(learner.step(1))} or sampling "
            f"{_gib(learner.sampling)}, {_gib(ALLOWANCE)} to work with)"
        )
    together = "with its learner beside it " if learner is not None else ""
    free = f"{_gib(min(gpu.free, gpu.usable))} GiB of {gpu.name} are free"
    return SettingsError(
        f"{settings.engine.model} {together}doesn't fit the GPU: {needs}, and {free}.",
        f"{' '.join(_advice(settings, gpu, demand))} What engine.gpu_memory_share says is taken unchecked.",
    )


def _advice(settings: Settings, gpu: Gpu, demand: Demand) -> Iterator[str]:
    def fits(changed: Demand) -> bool:
        return divide(gpu.usable, gpu.free, changed) is not None

    savings, shorter = list(_savings(settings, demand)), list(_shorter(demand))
    each = [words for words, save in savings if fits(save(demand))]
    each += [words for words, save in shorter if fits(save(demand))][:1]
    saved = f"It fits with {', or with '.join(each)}." if each else _together(savings, shorter, demand, fits)
    if saved is not None:
        yield saved
    alone = replace(demand, learner=None)
    contexts: list[Saving] = [("", lambda changed: changed), *((f" with {words}", save) for words, save in shorter)]
    serves = next((words for words, save in contexts if fits(save(alone))), None)
    if demand.learner is not None and serves is not None:
        yield (
            f"A learner with another GPU, of {_gib(demand.learner.least)} GiB at least, runs by itself: `hone up "
            f"--no-learner`{serves}, and beside it `CUDA_VISIBLE_DEVICES=1 hone learn`."
        )
    elif saved is None:
        more = f'"--tensor-parallel-size {2 * demand.engine.cards}"'
        yield f"Take a smaller model or a larger GPU, or spread it over several: engine.vllm_options = {more}."


def _together(
    savings: list[Saving], shorter: list[Saving], demand: Demand, fits: Callable[[Demand], bool]
) -> str | None:
    """The fewest savings found that fit together, where none does alone; None where not even all do."""

    def enough(some: list[Saving]) -> bool:
        changed = demand
        for _, save in some:
            changed = save(changed)
        return fits(changed)

    for chosen in (savings, *([*savings, context] for context in shorter)):
        if enough(chosen):
            for one in savings:
                if enough(rest := [other for other in chosen if other is not one]):
                    chosen = rest
            return f"It fits with all of these: {', '.join(words for words, _ in chosen)}."
    return None


def _savings(settings: Settings, demand: Demand) -> Iterator[Saving]:
    """What can be done without, the least felt first; but for the context."""
    rank = vllm_rank(min(settings.learner.rank, demand.engine.rank))
    slots = fewest_slots(settings)
    if rank < demand.engine.rank:
        yield f"engine.max_lora_rank = {rank}", partial(_with_engine, rank=rank)
    if slots < demand.engine.slots:
        yield f"engine.max_loras = {slots}", partial(_with_engine, slots=slots)
    if demand.learner is not None and not demand.learner.checkpointing:
        yield "learner.gradient_checkpointing = true", partial(_with_learner, checkpointing=True)
    if demand.learner is not None and not demand.learner.nf4:
        yield 'learner.quantise = "nf4" (docs/quantised.md)', partial(_with_learner, nf4=True)


def _shorter(demand: Demand) -> Iterator[Saving]:
    """Shorter contexts, powers of two, the longest first."""
    context = 1 << (demand.engine.context - 1).bit_length() - 1
    while context >= LEAST_CONTEXT:
        yield f"engine.max_model_len = {context}", partial(_with_engine, context=context)
        context //= 2


def _with_engine(demand: Demand, **changes: Any) -> Demand:
    return replace(demand, engine=replace(demand.engine, **changes))


def _with_learner(demand: Demand, **changes: Any) -> Demand:
    assert demand.learner is not None
    return replace(demand, learner=replace(demand.learner, **changes))


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
