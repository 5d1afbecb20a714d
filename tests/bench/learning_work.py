"""What a side of the benchmarks of learning is given to do, and how it is asked to: pure Python, for both environments.

A side is a process that loads a model once and then answers lines on its standard input with a number each:

    run 3    takes three steps of training; in how many seconds
    rate     multiplies matrices of the model's shapes, at so many FLOP a second; ours alone does that
    peak     the most memory that it ever had, in bytes: the GPU's where it computes there
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Literal

Method = Literal["dpo", "dpo-precomputed", "reward", "sft", "kto", "ppo"]
Precision = Literal["float32", "bfloat16", "nf4"]

BATCHES = 4
"""Of different examples, which are gone through again and again."""
FIRST_TOKEN = 8
"""Below are those that begin, end and pad."""
LEARNING_RATE = 1e-5
PPO_EPOCHS, PPO_REPLIES, PPO_BATCH = 2, 4, 32
"""Passes over what was sampled, replies to a prompt, and replies in a step: what our own settings say when left
alone."""


@dataclass(frozen=True)
class Work:
    """`batch`: pairs, labelled replies, demonstrations or, for `ppo`, sampled replies in a step."""

    method: Method
    model: str
    vocabulary: int
    batch: int = 8
    prompt_tokens: int = 512
    reply_tokens: int = 128
    rank: int = 16
    alpha: int = 32
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "float32"
    """Of the base; nf4 computes in bfloat16."""

    @property
    def count(self) -> int:
        """Of different examples."""
        return BATCHES * self.batch

    def examples(self) -> list[tuple[list[int], list[int], list[int]]]:
        """A prompt and two replies to it, `count` times: the same for both sides."""
        draws = Random(0)
        lengths = (self.prompt_tokens, self.reply_tokens, self.reply_tokens)
        made = (
            [[draws.randrange(FIRST_TOKEN, self.vocabulary) for _ in range(length)] for length in lengths]
            for _ in range(self.count)
        )
        return [(prompt, one, other) for prompt, one, other in made]

    @property
    def sampled_to_a_prompt(self) -> int:
        """Replies, by `ppo`."""
        return min(PPO_REPLIES, self.batch)

    def prompts(self) -> list[list[int]]:
        """To sample replies to: so many that they make `count` of them."""
        return [prompt for prompt, _, _ in self.examples()[:: self.sampled_to_a_prompt]]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Work:
        return cls(**json.loads(text))


def serve(load: Callable[[Work], Callable[[int], float]], rate: Callable[[Work], float] | None = None) -> None:
    """Answer until the input ends. `load` returns what takes so many steps, and says in how many seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    work = Work.from_json(sys.argv[1])
    run = load(work)
    for line in sys.stdin:
        asked, *arguments = line.split()
        if asked == "run":
            answer = run(int(arguments[0]))
        elif asked == "peak":
            answer = peak_bytes(work)
        else:
            assert asked == "rate" and rate is not None, line
            answer = rate(work)
        print(answer, file=answers, flush=True)


def timed(work: Work, run: Callable[[int], object], steps: int) -> float:
    begun = now(work)
    run(steps)
    return now(work) - begun


def now(work: Work) -> float:
    """Seconds on a clock, when all that was asked for is done."""
    if work.device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(work: Work) -> float:
    if work.device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)
