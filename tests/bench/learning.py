"""What learning costs, beside TRL's trainers: the same model, data, batch and precision, LoRA of the same rank.

Both sides are processes with all cores that load once and then take steps in turns (`learning_ours`, `learning_trl`);
what is measured are those steps. Prompts have 512 tokens and replies 128, all random and all of the same length, which
spares TRL the padding that people's replies would cost it. The model is `sprout`, in float32.

- `dpo`, `dpo-precomputed`: beside TRL as it comes, and with the anchor's log-probabilities computed beforehand,
  before the clock starts. Ours does either likewise; in a run it computes those of a pair once.
- `reward`: ours fits an ensemble of heads, TRL one.
- `sft`: without what ours retains beside, as TRL retains nothing.
- `kto`: ours with the pull to the anchor at every token, which TRL has not.
- `ppo`: iterations of sampling, grading and two passes, with a value function; beside TRL 1.12's, the last that had it.
  32 replies are in a step, as our settings have it, and four sampled to a prompt, which ours computes once for all of
  them; TRL is given the prompt as often. At the shape of a 0.5B model four are in a step.
- `ppo-memory`: the most memory of either process in one iteration, at the shape of a 0.5B model; two replies to one
  prompt, since with more TRL's needs over 22 GiB.

The notes tell the tokens per second, prompts counted once for both replies of a pair, and what share of the cores'
matrix rate that comes to. A token takes 4 N FLOP to train on with LoRA and 2 N where no gradient is needed, N being the
weights of the layers' matrices, and for reply tokens those of the output layer, too; attention is not counted. The rate
is that of a float32 product of a batch's tokens and a matrix of the model's MLP. `sprout`'s matrices are too small to
come near it; at the shape of a 0.5B model, with random weights, at least half of it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.settings import SPROUT
from tests.bench.harness import CannotMeasure, Comparison, alternate, benchmark
from tests.bench.learning_work import PPO_BATCH, PPO_EPOCHS, PPO_REPLIES, Method, Work

ROOT = Path(__file__).resolve().parents[2]
TRL = ROOT / ".venv-trl"
TRL_1_12 = TRL / "trl-1.12"
THREADS = os.cpu_count()
STEPS, REPEATS = 2, 5
FEW = 2
"""Examples in a step at the shape of a 0.5B model."""
STOP_SECONDS = 30.0
TRAINED, FORWARD = 4, 2
PASSES: Mapping[Method, tuple[tuple[int, bool], ...]] = {
    "dpo": ((TRAINED, True), (FORWARD, True)),
    "dpo-precomputed": ((TRAINED, True),),
    "reward": ((TRAINED, False),),
    "sft": ((TRAINED, True),),
    "kto": ((TRAINED, True), (FORWARD, True), (FORWARD, True)),
    "ppo": ((FORWARD, True),) * 3 + ((FORWARD, False),) * 2 + ((TRAINED, True), (TRAINED, False)) * PPO_EPOCHS,
}
"""Of a step over its tokens: FLOP for each of a matrix's weights, and whether the output layer is among them."""
HALF_BILLION = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""The shape of Qwen2.5-0.5B."""
UNUSED = "share of the matrix rate that is left unused at the shape of a 0.5B model"
MOST_UNUSED = 0.5

Ask = Callable[[str], float]


def sprout(method: Method) -> Work:
    return Work(method, str(SPROUT), _config(str(SPROUT))["vocab_size"])


@benchmark("dpo", unit="pairs/s", peer_name="TRL 1.16", target=2.0, limits={UNUSED: MOST_UNUSED})
def dpo() -> Comparison:
    return compare(sprout("dpo"), half_billion=True)


@benchmark(
    "dpo-precomputed",
    unit="pairs/s",
    peer_name="TRL 1.16, the anchor's numbers precomputed",
    target=1.6,
    limits={UNUSED: MOST_UNUSED},
)
def dpo_precomputed() -> Comparison:
    return compare(sprout("dpo-precomputed"), half_billion=True)


@benchmark("reward", unit="pairs/s", peer_name="TRL 1.16", target=1.5, limits={UNUSED: MOST_UNUSED})
def reward() -> Comparison:
    return compare(sprout("reward"), half_billion=True)


@benchmark("sft", unit="replies/s", peer_name="TRL 1.16", target=1.2, limits={UNUSED: MOST_UNUSED})
def sft() -> Comparison:
    return compare(sprout("sft"), half_billion=True)


@benchmark("kto", unit="replies/s", peer_name="TRL 1.16", target=1.2, limits={UNUSED: MOST_UNUSED})
def kto() -> Comparison:
    return compare(sprout("kto"), half_billion=True)


@benchmark("ppo", unit="replies/s", peer_name="TRL 1.12", target=3.0, limits={UNUSED: MOST_UNUSED})
def ppo() -> Comparison:
    return compare(replace(sprout("ppo"), batch=PPO_BATCH), half_billion=True, repeats=3)


@benchmark("ppo-memory", unit="MiB at most", peer_name="TRL 1.12", higher_is_better=False, target=3.0)
def ppo_memory() -> Comparison:
    with random_model(HALF_BILLION, "ppo", FEW) as work:
        return compare_memory(work)


def compare(work: Work, half_billion: bool = False, repeats: int = REPEATS) -> Comparison:
    """Examples per second. `half_billion`: see also how much of the matrix rate is used at that shape."""
    with ours(work) as our_side, trls(work) as trls_side:
        rate = our_side("rate")

        def per_second(ask: Ask) -> float:
            return STEPS * work.batch / ask(f"run {STEPS}")

        per_second(our_side), per_second(trls_side)  # both warm up
        found = alternate(lambda: per_second(our_side), lambda: per_second(trls_side), repeats)
    fastest = max(found.ours)
    note = (
        f"{work.batch} in a step, prompts of {work.prompt_tokens} and replies of {work.reply_tokens} tokens; "
        f"{fastest * tokens(work):.0f} tokens/s, {fastest * flop(work) / rate:.0%} of the matrix rate "
        f"({rate / 1e9:.0f} GFLOP/s)"
    )
    if not half_billion:
        return replace(found, note=note)
    batch, steps = (PPO_REPLIES, 1) if work.method == "ppo" else (FEW, STEPS)
    with random_model(HALF_BILLION, work.method, batch) as larger:
        used, per_second_there = used_of_the_rate(larger, steps)
    note += f"; at the shape of a 0.5B model {per_second_there * tokens(larger):.0f} tokens/s, {used:.0%}"
    return replace(found, note=note, figures={UNUSED: 1 - used})


def used_of_the_rate(work: Work, steps: int) -> tuple[float, float]:
    """The share of the cores' matrix rate that so many of our steps come to, and the examples per second."""
    with ours(work) as ask:
        rate = ask("rate")
        ask("run 1")
        per_second = steps * work.batch / ask(f"run {steps}")
    return per_second * flop(work) / rate, per_second


def compare_memory(work: Work) -> Comparison:
    peaks = []
    for side in (ours, trls):  # one after the other: both together may not fit
        with side(work) as ask:
            ask("run 1")
            peaks.append(ask("peak") / 2**20)
    note = (
        f"one iteration: {work.batch} replies of {work.reply_tokens} tokens, {work.sampled_to_a_prompt} to a prompt of "
        f"{work.prompt_tokens}"
    )
    return Comparison([peaks[0]], [peaks[1]], note)


def tokens(work: Work) -> float:
    """Of an example, its prompt once; of a reply that `ppo` samples, its share of the prompt."""
    shared = work.sampled_to_a_prompt if work.method == "ppo" else 1
    return work.prompt_tokens / shared + _replies(work) * work.reply_tokens


def flop(work: Work) -> float:
    """That an example takes at least."""
    config = _config(work.model)
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    attention = 2 * hidden * width * (heads + config["num_key_value_heads"])  # queries and outputs; keys and values
    layers = config["num_hidden_layers"] * (attention + 3 * hidden * inner)
    output = hidden * config["vocab_size"]
    scored = _replies(work) * work.reply_tokens
    passes = PASSES[work.method]
    return float(sum(of * (layers * tokens(work) + is_scored * output * scored) for of, is_scored in passes))


def _replies(work: Work) -> int:
    """Of an example."""
    return 2 if work.method in ("dpo", "dpo-precomputed", "reward") else 1


def _config(model: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    return read


@contextmanager
def random_model(shape: Mapping[str, Any], method: Method, batch: int) -> Iterator[Work]:
    """So many examples in a step, on a model of that shape with random weights and `sprout`'s tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory(prefix="hone-bench-") as folder:
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**shape, pad_token_id=0)).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(SPROUT / name, folder)
        yield Work(method, folder, shape["vocab_size"], batch)


@contextmanager
def ours(work: Work) -> Iterator[Ask]:
    with _side([sys.executable, "-m", "tests.bench.learning_ours"], work, {}) as ask:
        yield ask


@contextmanager
def trls(work: Work) -> Iterator[Ask]:
    if not (TRL / "installed").exists():
        raise CannotMeasure("TRL is not installed in .venv-trl: run `make trl`")
    environment = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    if work.method == "ppo":
        environment["PYTHONPATH"] = os.pathsep.join([str(TRL_1_12), os.environ.get("PYTHONPATH", "")])
    command = [str(TRL / "bin" / "python"), "-W", "ignore", "-m", "tests.bench.learning_trl"]
    with _side(command, work, environment) as ask:
        yield ask


@contextmanager
def _side(command: list[str], work: Work, environment: Mapping[str, str]) -> Iterator[Ask]:
    """A process that does this work, and how to ask it (`learning_work`). It has all cores, when it is asked."""
    threads = str(THREADS)
    chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "MKL_DYNAMIC": "FALSE", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [*command, work.to_json()], cwd=ROOT, env={**os.environ, **chosen, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def ask(line: str) -> float:
            with contextlib.suppress(BrokenPipeError):
                print(line, file=asked, flush=True)
            if not (answer := answers.readline()):
                told.seek(0)
                raise RuntimeError(f"{' '.join(command)} has ended: {told.read()[-4000:]}")
            return float(answer)

        try:
            yield ask
        finally:
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.communicate(timeout=STOP_SECONDS)  # its input ends, and with it the process
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
