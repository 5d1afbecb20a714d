"""How long a running stream stands still while adapters are swapped under load.

Thirty-two clients stream replies, half of them from the live adapter. Meanwhile adapters are swapped, one after the
other: a new one is loaded and used, the old one unloaded. After each swap the same streams are watched for as long
without one. The figure is the longest pause between two tokens of any stream while a swap is under way, in decode steps
(the median pause while none is), by the median swap; the peer is the longest pause of as long a time without a swap.

By the median, because a machine stalls by itself: where two loops that do nothing but look at the clock keep both cores
busy, a virtual machine may take 10 ms from either, several decode steps. That hits every swap alike or none: what
a swap does it does every time. The note has the longest pauses of all, with and without a swap, and how many of either
were longer than is asked.

The engine is started so that it tells of every token as soon as it is there, and streams ask for token ids: then there
is an event also for a token that has no text.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from service.settings import SPROUT
from tests.bench.engine_load import Stream, ask, engine, post, stream_one
from tests.bench.harness import Comparison, benchmark

STREAMS, REPLY, SWAPS, ROUNDS = 32, 900, 3, 10
LONGEST_GAP, MOST_STEPS = "decode steps that the longest gap takes, by the median swap", 3
ARRIVAL = 1e-4  # seconds; what came closer together came in one piece


@dataclass(frozen=True)
class Watch:
    """A stretch of time, in seconds of `time.perf_counter`, and whether an adapter was swapped in it."""

    began: float
    ended: float
    with_swap: bool


def save_adapters(folder: Path, count: int) -> list[Path]:
    """Random adapters for `sprout`, all the same under different names."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(SPROUT, dtype=torch.float32)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "v0")
    return [Path(shutil.copytree(folder / "v0", folder / f"v{n}")) for n in range(1, count + 1)]


def longest_gaps(streams: Sequence[Stream], watches: Sequence[Watch]) -> dict[bool, list[float]]:
    """In decode steps, the longest of any stream in each watch, those with a swap (True) and those without."""
    pauses = [
        (earlier, later)
        for stream in streams
        for earlier, later in zip(stream.arrivals[2:], stream.arrivals[3:], strict=False)  # the first are prompts
        if later - earlier > ARRIVAL
    ]

    def during(watch: Watch) -> list[float]:
        return [later - earlier for earlier, later in pauses if later > watch.began and earlier < watch.ended]

    step = median(pause for watch in watches if not watch.with_swap for pause in during(watch))
    return {
        swapped: [max(during(watch)) / step for watch in watches if watch.with_swap is swapped]
        for swapped in (True, False)
    }


async def under_load(port: int, live: str, swaps: Sequence[tuple[str, Path]]) -> tuple[list[Stream], list[Watch]]:
    """Streams on the base and on `live`; meanwhile each of `swaps` is loaded, used and takes the place of the last."""

    def body(model: str, tokens: int) -> dict[str, Any]:
        return {"model": model, "prompt": [5, 6, 7], "max_tokens": tokens, "ignore_eos": True, "return_token_ids": True}

    tasks = [
        asyncio.create_task(stream_one(port, body("sprout" if number % 2 else live, REPLY)))
        for number in range(STREAMS)
    ]
    await asyncio.sleep(0.2)  # all stream
    watches: list[Watch] = []
    old: str | None = None
    for name, path in swaps:
        began = time.perf_counter()
        await ask(port, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        await ask(port, "/v1/completions", body(name, 4))
        if old is not None:
            await ask(port, "/v1/unload_lora_adapter", {"lora_name": old})
        ended, old = time.perf_counter(), name
        await asyncio.sleep(ended - began)
        watches += [Watch(began, ended, True), Watch(ended, time.perf_counter(), False)]
    if any(task.done() for task in tasks):
        raise RuntimeError("a stream came to its end before the last swap was watched")
    streams = list(await asyncio.gather(*tasks))
    if old is not None:
        post(port, "/v1/unload_lora_adapter", {"lora_name": old})
    if any(stream.failed or stream.tokens != REPLY for stream in streams):
        raise RuntimeError("a stream failed or was cut short")
    return streams, watches


@benchmark(
    "swap-gap",
    unit="decode steps",
    peer_name="the same streams without a swap",
    higher_is_better=False,
    limits={LONGEST_GAP: MOST_STEPS},
)
def swap_gap() -> Comparison:
    with (
        tempfile.TemporaryDirectory() as temporary,
        engine("--model", "sprout", "--event-interval", "0") as port,
    ):
        first, *others = save_adapters(Path(temporary), SWAPS + 1)
        post(port, "/v1/load_lora_adapter", {"lora_name": "live", "lora_path": str(first)})
        found: dict[bool, list[float]] = {True: [], False: []}
        for number in range(ROUNDS + 1):
            swaps = [(f"r{number}-{path.name}", path) for path in others]
            seen = longest_gaps(*asyncio.run(under_load(port, "live", swaps)))
            if number:  # the first only warms up
                found = {swapped: found[swapped] + seen[swapped] for swapped in found}
    return Comparison(found[True], found[False], _told(found), {LONGEST_GAP: median(found[True])})


def _told(found: dict[bool, list[float]]) -> str:
    parts = []
    for swapped, gaps in found.items():
        longer = sum(gap > MOST_STEPS for gap in gaps)
        of_what = "swaps" if swapped else "times as long without one"
        parts.append(
            f"{longer} of {len(gaps)} {of_what} had a gap of more than {MOST_STEPS} steps, at most {max(gaps):.1f}"
        )
    return f"{STREAMS} streams of {REPLY} tokens; {'; '.join(parts)}"
