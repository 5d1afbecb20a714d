"""Drive an engine by hand: build it in this process, run it to the end, compare it with transformers and PEFT."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from service.embedded.arguments import EngineArguments
from service.embedded.assemble import assemble
from service.embedded.engine import Engine
from service.embedded.lora import read_adapter
from service.embedded.messages import AddSequence, SamplingParams, Update

GREEDY = SamplingParams(max_tokens=8, temperature=0.0, logprobs=0)


def build(folder: Path, **options: Any) -> Engine:
    """An engine in float32 on the CPU."""
    usual = EngineArguments(model=str(folder), dtype="float32", device="cpu", threads=1, max_num_seqs=8)
    return assemble(replace(usual, **options))[0]


def attach(engine: Engine, name: str, folder: Path) -> None:
    adapter = read_adapter(name, folder, engine.model.linear_shapes(), max_rank=64)
    engine.attach(engine.model.prepare(adapter))


def run(engine: Engine, requests: list[AddSequence], limit: int = 5000) -> dict[int, list[Update]]:
    """Add all requests and step until the engine is idle: every sequence's updates."""
    for request in requests:
        engine.add(request)
    updates: dict[int, list[Update]] = {request.sequence: [] for request in requests}
    for _ in range(limit):
        if engine.idle:
            return updates
        for update in engine.step():
            updates.setdefault(update.sequence, []).append(update)
    raise AssertionError(f"not idle after {limit} steps: {engine.load}")


def tokens_of(updates: list[Update]) -> list[int]:
    return [update.token for update in updates]


class Reference:
    """What transformers (and PEFT) compute for the same tokens, without a cache."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        attention = "eager" if "gemma2" in str(folder) else None
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
        self.model = model.eval() if adapter is None else PeftModel.from_pretrained(model, adapter).eval()

    @torch.inference_mode()
    def logprobs(self, tokens: list[int]) -> torch.Tensor:
        """`(t, vocab)`: what follows each position."""
        logits: torch.Tensor = self.model(input_ids=torch.tensor([tokens])).logits[0]
        return logits.float().log_softmax(-1)

    def scores(self, tokens: list[int]) -> list[float]:
        """The log-probability of each token but the first."""
        table = self.logprobs(tokens)
        return [float(table[place, token]) for place, token in enumerate(tokens[1:])]

    def greedy(self, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        """`count` likeliest tokens in a row, and their log-probabilities."""
        tokens, values = list(prompt), []
        for _ in range(count):
            value, token = self.logprobs(tokens)[-1].max(-1)
            tokens.append(int(token))
            values.append(float(value))
        return tokens[len(prompt) :], values


def prompts(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    draws = random.Random(seed)
    return [[draws.randrange(5, 300) for _ in range(draws.randrange(1, longest))] for _ in range(count)]
