"""Tokens per second of the embedded engine over HTTP, beside transformers' `generate` with a batch of the same size.

Both serve `sprout`, sample at temperature 1 and write exactly `REPLY` tokens for each of n prompts. Ours are n
streaming clients at once, on connections of their own, through HTTP, JSON and detokenisation; the peer is handed
token ids and asked for a batch, which is the kinder task. Both compute on the GPU where there is one, each in the
numbers that it takes there by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time

from service.settings import SPROUT
from tests.bench.engine_load import engine, stream_all
from tests.bench.harness import Comparison, alternate, benchmark

PROMPT, REPLY = 40, 128  # tokens
REPEATS = 5


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    draws = random.Random(seed)
    return [[draws.randrange(10, 2000) for _ in range(PROMPT)] for _ in range(count)]


def beside_generate(streams: int) -> Comparison:
    import torch
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    model = AutoModelForCausalLM.from_pretrained(SPROUT, dtype="auto" if on_gpu else torch.float32).to(device).eval()
    batch = torch.tensor(prompts(streams), device=device)
    repeat = itertools.count()  # each with prompts of its own: the engine finds none of them computed

    def theirs() -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            written = model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=REPLY,
                min_new_tokens=REPLY,
            )
        return float(streams * (written.shape[1] - PROMPT)) / (time.perf_counter() - begin)

    with engine("--model", "sprout") as port:

        def ours() -> float:
            bodies: list[dict[str, object]] = [
                {"model": "sprout", "prompt": prompt, "max_tokens": REPLY, "temperature": 1.0, "ignore_eos": True}
                for prompt in prompts(streams, next(repeat))
            ]
            begin = time.perf_counter()
            replies = asyncio.run(stream_all(port, bodies))
            seconds = time.perf_counter() - begin
            if any(reply.tokens != REPLY for reply in replies):
                raise RuntimeError("a stream was cut short")
            return streams * REPLY / seconds

        ours(), theirs()  # both warm up once
        return alternate(ours, theirs, REPEATS)


@benchmark("engine-1", unit="tokens/s", peer_name="transformers generate", target=5)
def engine_1() -> Comparison:
    return beside_generate(1)


@benchmark("engine-8", unit="tokens/s", peer_name="transformers generate", target=5)
def engine_8() -> Comparison:
    return beside_generate(8)


@benchmark("engine-32", unit="tokens/s", peer_name="transformers generate", target=5)
def engine_32() -> Comparison:
    return beside_generate(32)
