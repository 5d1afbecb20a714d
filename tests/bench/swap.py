"""How long a running stream stands still while adapters are swapped under load.

Eight clients stream replies, half of them from the live adapter, while new adapters are loaded, used and old ones
unloaded, one swap after the other. The figure is the longest pause between two pieces of any stream, counted in decode
steps (the median pause); the peer is the same load with nothing swapped, so that what the machine itself stalls shows.
The engine is started so that it tells of every token as soon as it is there.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from service.settings import SPROUT
from tests.bench.engine_load import Stream, engine, post, stream_one
from tests.bench.harness import Comparison, alternate, benchmark

STREAMS, REPLY, SWAPS, REPEATS = 8, 400, 5, 5
LONGEST_GAP = "decode steps that the longest gap takes"


def save_adapters(folder: Path, count: int) -> list[Path]:
    """Random adapters for `sprout`, all the same under different names."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(SPROUT, dtype=torch.float32)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "v0")
    return [Path(shutil.copytree(folder / "v0", folder / f"v{n}")) for n in range(1, count + 1)]


def longest_pause(streams: list[Stream]) -> float:
    """In decode steps, first pieces (prompts) left out."""
    pauses = [
        later - earlier
        for stream in streams
        for earlier, later in zip(stream.arrivals[2:-1], stream.arrivals[3:], strict=False)
    ]
    return in_steps(pauses)


def in_steps(pauses: Sequence[float]) -> float:
    """The longest pause over the median one."""
    steps = [pause for pause in pauses if pause > 1e-4]  # what came in one piece is no step
    return max(steps) / median(steps)


async def under_load(port: int, live: str, swaps: list[tuple[str, Path]], operator: Executor) -> list[Stream]:
    """Streams on the base and on `live`; meanwhile each of `swaps` is loaded, used and takes the place of the last.

    The `operator` swaps, a process of its own: in the one that watches the streams it would delay their arrivals.
    """

    def ask(path: str, content: dict[str, object]) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().run_in_executor(operator, post, port, path, content)

    def body(model: str, tokens: int) -> dict[str, object]:
        return {"model": model, "prompt": [5, 6, 7], "max_tokens": tokens, "ignore_eos": True}

    tasks = [
        asyncio.create_task(stream_one(port, body("sprout" if number % 2 else live, REPLY)))
        for number in range(STREAMS)
    ]
    old: str | None = None
    for name, path in swaps:
        await asyncio.sleep(0.1)
        await ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        await ask("/v1/completions", body(name, 4))
        if old is not None:
            await ask("/v1/unload_lora_adapter", {"lora_name": old})
        old = name
    streams = list(await asyncio.gather(*tasks))
    if old is not None:
        post(port, "/v1/unload_lora_adapter", {"lora_name": old})
    if any(stream.failed or stream.tokens != REPLY for stream in streams):
        raise RuntimeError("a stream failed or was cut short")
    return streams


@benchmark(
    "swap-gap",
    unit="decode steps",
    peer_name="the same streams without a swap",
    higher_is_better=False,
    limits={LONGEST_GAP: 3},
)
def swap_gap() -> Comparison:
    with (
        tempfile.TemporaryDirectory() as temporary,
        engine("--model", "sprout", "--event-interval", "0") as port,
        ProcessPoolExecutor(1, get_context("spawn")) as operator,
    ):
        first, *others = save_adapters(Path(temporary), SWAPS + 1)
        post(port, "/v1/load_lora_adapter", {"lora_name": "live", "lora_path": str(first)})
        rounds = iter(range(1000))

        def run(swapping: bool) -> float:
            names = [(f"r{next(rounds)}-{time.monotonic_ns()}", path) for path in others] if swapping else []
            return longest_pause(asyncio.run(under_load(port, "live", names, operator)))

        run(True)
        measured = alternate(lambda: run(True), lambda: run(False), REPEATS)
    return replace(measured, figures={LONGEST_GAP: median(measured.ours)})
