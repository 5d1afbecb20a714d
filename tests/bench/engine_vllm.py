"""Tokens per second of the embedded engine beside vLLM's CPU build, over HTTP, from the base and from a live adapter.

Both serve `sprout` with LoRA on, as `hone up` starts them, and get the same streams from the same client: n at once, a
connection each, exactly `REPLY` tokens for each prompt, sampled at temperature 1. vLLM gets what makes it fastest: the
OpenMP library that it asks to be preloaded, and bfloat16 only where the processor multiplies it by itself (elsewhere
float32 gives it up to twice the tokens).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from service.engine_program import VLLM_PYTHON
from tests.bench.engine import PROMPT, REPEATS, REPLY, prompts
from tests.bench.engine_load import post, stream_all
from tests.bench.harness import CannotMeasure, Comparison, alternate, benchmark
from tests.bench.swap import save_adapters
from tests.fixtures.engines import serving_sprout, why_vllm_cannot_run

ENGINE: dict[str, object] = {"max_model_len": 512, "kv_cache_gib": 1.0}


def fastest_dtype() -> str:
    """Of vLLM on this processor."""
    return "bfloat16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "float32"


def preloaded() -> dict[str, str]:
    library = VLLM_PYTHON.parent.parent / "lib" / "libiomp5.so"
    before = os.environ.get("LD_PRELOAD", "")
    return {"HF_HUB_OFFLINE": "1"} | ({"LD_PRELOAD": f"{library}:{before}"} if library.exists() else {})


def beside_vllm(streams: int, on_adapter: bool) -> Comparison:
    if (reason := why_vllm_cannot_run()) is not None:
        raise CannotMeasure(reason)
    as_fast, as_it_comes = ENGINE | {"dtype": fastest_dtype()}, {"VLLM_PLUGINS": ""}  # without what `hone up` mends
    with (
        tempfile.TemporaryDirectory() as temporary,
        serving_sprout("embedded", Path(temporary) / "ours", ENGINE, {}) as ours,
        serving_sprout("vllm", Path(temporary) / "theirs", as_fast, preloaded() | as_it_comes) as theirs,
    ):
        ports = [urlsplit(engine.url).port or 0 for engine in (ours, theirs)]
        model = "sprout"
        if on_adapter:
            [adapter] = save_adapters(Path(temporary), 1)
            model = "live"
            for port in ports:
                post(port, "/v1/load_lora_adapter", {"lora_name": model, "lora_path": str(adapter)})
        bodies: list[dict[str, object]] = [
            {"model": model, "prompt": prompt, "max_tokens": REPLY, "temperature": 1.0, "ignore_eos": True}
            for prompt in prompts(streams)
        ]

        def rate(port: int) -> float:
            begin = time.perf_counter()
            replies = asyncio.run(stream_all(port, bodies))
            seconds = time.perf_counter() - begin
            if any(reply.failed or reply.tokens != REPLY for reply in replies):
                raise RuntimeError("a stream failed or was cut short")
            return streams * REPLY / seconds

        for port in ports:
            rate(port), rate(port)  # both warm up
        found = alternate(lambda: rate(ports[0]), lambda: rate(ports[1]), REPEATS)
    return Comparison(
        found.ours, found.peer, note=f"{streams} streams of {PROMPT} + {REPLY} tokens; vLLM in {fastest_dtype()}"
    )


for streams in (1, 8, 32):
    for kind, on_adapter, target in (("", False, 1.0), ("adapter-", True, 2.0)):
        register = benchmark(
            f"engine-vllm-{kind}{streams}", unit="tokens/s", peer_name="vLLM's CPU build", target=target
        )
        register(partial(beside_vllm, streams, on_adapter))
