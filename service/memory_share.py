"""The share of a GPU's memory that `hone up` gives vLLM, so that the learner has room beside it; or why there is none.

A share that the operator sets is taken as it is, and nothing is checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.engine_program import USUAL_SHARE, vllm_rank
from service.gpu_memory import Demand, Engine, Learner, divide
from service.gpus import first_gpu
from service.installed import torch_uses_gpus
from service.memory_advice import LEAST_CONTEXT, refusal
from service.model_shape import ModelShape, read_config, shape_of
from service.settings import Settings
from service.vllm_options import option_number, option_value, split_options

_OWN_SHARE = ("gpu-memory-utilization", "kv-cache-memory-bytes", "kv-cache-memory")
"""Options of vLLM that say what it takes."""


def with_memory_share(settings: Settings, learner: bool) -> tuple[Settings, str | None]:
    """The settings with the share of the GPU that the vLLM of `hone up` takes, and a line about it for people.

    `learner`: whether one runs beside it. Both are left as they are where the operator said how much, where no vLLM is
    started, and where there is no GPU. Raises SettingsError where model, adapters and learner don't fit the card.
    """
    engine = settings.engine
    options = split_options(engine.vllm_options)
    is_set = engine.gpu_memory_share is not None or any(option_value(options, name) is not None for name in _OWN_SHARE)
    if engine.urls or engine.kind != "vllm" or is_set or (gpu := first_gpu()) is None:
        return settings, None
    if (shape := shape_of(read_config(settings.model_path))) is None:
        share, rest = USUAL_SHARE, "the shape of its model isn't known here; engine.gpu_memory_share sets another"
    else:
        demand = _demand(settings, shape, options, learner and torch_uses_gpus())
        division = divide(gpu.usable, gpu.free, demand)
        if division is None:
            raise refusal(settings, gpu, demand)
        share, rest = division.share, f"its KV cache holds about {division.kv_tokens:,} tokens"
        if demand.learner is not None:
            rest += ", and the learner has room beside it"
        if division.parts > 1:
            rest += f", with its largest steps taken in {division.parts} parts"
    chosen = settings.model_copy(update={"engine": engine.model_copy(update={"gpu_memory_share": share})})
    return chosen, f"vLLM takes {share:.2f} of the memory of {gpu.name}: {rest}."


def _demand(settings: Settings, shape: ModelShape, options: Sequence[str], learner: bool) -> Demand:
    engine, learning = settings.engine, settings.learner
    own_context = option_value(options, "max-model-len")
    if own_context is None:
        context = engine.max_model_len or shape.context
    else:
        context = int(own_context) if own_context.isdecimal() else LEAST_CONTEXT  # `auto`: as much as there is room
    return Demand(
        Engine(
            shape,
            context=context,
            slots=option_number(options, "max-loras") or engine.max_loras,
            rank=option_number(options, "max-lora-rank") or vllm_rank(engine.max_lora_rank),
            cards=_count(options, "tensor-parallel-size", "tp") * _count(options, "pipeline-parallel-size", "pp"),
            number_bytes=4 if engine.dtype == "float32" else 2,
        ),
        Learner(shape, learning.rank, learning.quantise == "nf4", learning.gradient_checkpointing) if learner else None,
    )


def _count(options: Sequence[str], *names: str) -> int:
    return max(1, option_number(options, *names) or 1)
