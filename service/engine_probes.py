"""What vLLM tells nobody, found out by trying: whether its log-probabilities are the model's own, the largest rank of
an adapter, and whether it sees the folder of the adapters. It takes one short completion, its score, and one adapter
that is refused for its rank before any weights are looked for; the engine is as it was afterwards.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from service.adapters.engine import EngineFacts
from service.adapters.manifest import CONFIG, UNFINISHED
from service.adapters.proof import mean_gap
from service.engine import Engine
from service.errors import EngineRefused, EngineUnavailable

PROMPT = "Once upon a time"
TOKENS = 16
TEMPERATURE = 0.05
"""At which nearly always the likeliest token is sampled: without a doubt, where the model itself has some."""
DOUBT_NATS = 0.3
"""A token that the model says less likely than this had others beside it: it tells the two apart."""
SAME_NATS = 0.1
"""Mean gap per token up to which two log-probabilities are the same: an engine in bfloat16 is off by some hundredths
between sampling and scoring."""
TOO_LARGE = 4096
"""A rank that no vLLM takes."""

_LARGEST = re.compile(r"greater than max_lora_rank (\d+)")


async def try_out(engine: Engine, facts: EngineFacts, adapters_folder: Path) -> EngineFacts:
    """The facts, with what trying adds to them; what couldn't be tried stays None."""
    if facts.raw_logprobs is None:
        with suppress(EngineRefused, EngineUnavailable):
            facts = replace(facts, raw_logprobs=await has_raw_logprobs(engine, facts.base))
    if facts.rank is None and facts.has_lora is not False and facts.loads_adapters:
        with suppress(EngineRefused, EngineUnavailable, OSError):
            sees, rank = await _try_rank(engine, adapters_folder)
            facts = replace(facts, sees_adapters=sees, rank=rank)
    return facts


async def has_raw_logprobs(engine: Engine, model: str) -> bool | None:
    """Whether what it says of tokens that it samples is what it says of them when it scores them; None where it says
    nothing, or the model has no doubt about any of them. Raises EngineRefused, EngineUnavailable."""
    answer = await engine.complete(
        {
            "model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": TEMPERATURE, "logprobs": 0,
            "return_token_ids": True, "seed": 0,
        }
    )  # fmt: skip
    choice = answer["choices"][0]
    sampled = (choice.get("logprobs") or {}).get("token_logprobs") or []
    prompt, tokens = choice.get("prompt_token_ids") or [], choice.get("token_ids") or []
    if not prompt or not sampled or len(sampled) != len(tokens):
        return None
    scored = await engine.score(model, prompt, tokens)
    told = [(said, score) for said, score in zip(sampled, scored, strict=True) if score < -DOUBT_NATS]
    return mean_gap([[said for said, _ in told]], [[score for _, score in told]]) <= SAME_NATS if told else None


async def _try_rank(engine: Engine, adapters_folder: Path) -> tuple[bool | None, int | None]:
    """Whether it sees the folder, and the largest rank that it takes.

    Raises EngineRefused, EngineUnavailable, OSError.
    """
    with _adapter_of_too_large_a_rank(adapters_folder) as folder:
        try:
            await engine.load_adapter(folder.name, str(folder))
        except EngineRefused as error:
            if error.status == 404:
                return False, None
            found = _LARGEST.search(error.message)
            return (True, int(found[1])) if found else (None, None)
        await engine.unload_adapter(folder.name)  # whatever this is, it took an adapter without weights
        return None, None


@contextmanager
def _adapter_of_too_large_a_rank(adapters_folder: Path) -> Iterator[Path]:
    """A folder where adapters lie, under a name that the next start clears away should this one be killed."""
    folder = adapters_folder / f"{UNFINISHED}rank-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        config = {"peft_type": "LORA", "r": TOO_LARGE, "lora_alpha": TOO_LARGE, "target_modules": ["q_proj"]}
        (folder / CONFIG).write_text(json.dumps(config))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
