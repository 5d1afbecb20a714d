"""What learning costs on a GPU, beside TRL's trainers on the same one: at the shapes of models of half a billion and of
eight billion parameters, with random weights, in bfloat16 and in NF4.

As `tests.bench.learning` does it on a CPU: prompts of 512 and replies of 128 tokens, LoRA, both sides in turns. The
notes tell tokens per second, what share that is of the card's matrix rate (that of large bfloat16 products, measured on
it), and the most memory that either side had taken of the card. No ratio is asked for here. PPO is in bfloat16 alone.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from service.settings import SPROUT
from tests.bench.harness import CannotMeasure, Comparison, alternate, benchmark
from tests.bench.learning import HALF_BILLION, STEPS, Ask, flop, ours, tokens, trls
from tests.bench.learning_work import Method, Precision, Work

Shape = Literal["0.5b", "8b"]
EIGHT_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
"""The shape of Llama 3.1 8B."""
SHAPES: Mapping[Shape, Mapping[str, Any]] = {"0.5b": HALF_BILLION, "8b": EIGHT_BILLION}
BATCH: Mapping[Shape, int] = {"0.5b": 8, "8b": 2}
METHODS: tuple[Method, ...] = ("sft", "reward", "dpo", "kto", "ppo")
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "nf4")
UNITS: Mapping[Method, str] = {"dpo": "pairs/s", "reward": "pairs/s"}
REPEATS = 3


def compare(method: Method, shape: Shape, precision: Precision) -> Comparison:
    """Examples per second on the card."""
    work = work_of(method, shape, precision)
    with ours(work) as our_side, trls(work) as trls_side:
        return measure(work, our_side, trls_side)


def work_of(method: Method, shape: Shape, precision: Precision) -> Work:
    vocabulary, batch = SHAPES[shape]["vocab_size"], BATCH[shape]
    return Work(method, random_base(shape), vocabulary, batch=batch, device="cuda", precision=precision)


def measure(work: Work, our_side: Ask, trls_side: Ask) -> Comparison:
    """Of two sides that have loaded it."""
    steps, repeats = (1, 2) if work.method == "ppo" else (STEPS, REPEATS)  # one of its iterations takes seconds

    def per_second(ask: Ask) -> float:
        return steps * work.batch / ask(f"run {steps}")

    per_second(our_side), per_second(trls_side)  # both warm up
    peaks = our_side("peak") / 2**30, trls_side("peak") / 2**30
    found = alternate(lambda: per_second(our_side), lambda: per_second(trls_side), repeats)
    rate = our_side("rate")
    fastest = max(found.ours)
    note = (
        f"{work.batch} in a step; {fastest * tokens(work):.0f} tokens/s, {fastest * flop(work) / rate:.0%} of the "
        f"card's matrix rate ({rate / 1e12:.0f} TFLOP/s); at most {peaks[0]:.1f} GiB, {peaks[1]:.1f} GiB by TRL"
    )
    return replace(found, note=note)


@functools.cache
def random_base(shape: Shape) -> str:
    """A folder with a model of that shape in bfloat16, with random weights and `sprout`'s tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if not torch.cuda.is_available():
        raise CannotMeasure("there is no GPU here")
    folder = Path(tempfile.mkdtemp(prefix="hone-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(0)
    with torch.device("cuda"):
        made = LlamaForCausalLM._from_config(LlamaConfig(**SHAPES[shape], pad_token_id=0), dtype=torch.bfloat16)
    made.save_pretrained(folder)
    del made
    torch.cuda.empty_cache()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SPROUT / name, folder)
    return str(folder)


def _register(method: Method, shape: Shape, precision: Precision) -> Callable[[], Comparison]:
    peer = "TRL 1.12" if method == "ppo" else "TRL 1.16"
    name = f"gpu-{method}-{shape}-{'bf16' if precision == 'bfloat16' else precision}"
    return benchmark(name, unit=UNITS.get(method, "replies/s"), peer_name=peer)(
        lambda: compare(method, shape, precision)
    )


for _shape in get_args(Shape):
    for _precision in PRECISIONS:
        for _method in METHODS:
            if _method != "ppo" or _precision == "bfloat16":
                _register(_method, _shape, _precision)
