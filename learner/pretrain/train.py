"""The training loop of the built-in model: next-token prediction on packed dialogues, from scratch, on a CPU.

Departs from the usual recipe where a small machine gains by it: Muon (Jordan et al. 2024, see `muon.py`) for the
matrices inside the layers and AdamW for the rest; matrix products in bfloat16 where the processor has instructions for
them, all else in float32; attention one dialogue at a time (`learner.packing`); the loss on the assistant's tokens with
full weight and on the user's with a small one; one process per core, each with text of its own (`replicas.py`), so that
a busy neighbour on the machine stalls a step once and not every matrix product; what lies between the products is
compiled (`forward.py`). The learning rate holds and then decays to zero (warm-up, stable, decay), by elapsed share of
the time allowed, so a run that is given less time is annealed all the same. At the end comes practice: it warms up once
more, a little, and decays on text that has more of what is hard.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.loss import fast_products
from learner.pretrain.muon import Muon
from learner.pretrain.replicas import Replicas, Share, be_single_threaded
from learner.pretrain.tokenizer import CONTEXT


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, together with the text."""

    seed: int = 1
    begin: str = ""
    """A folder with the finished model of an earlier training to go on from, sizes and tokenizer included."""
    minutes: float = 70.0
    """Most wall-clock time of the training before practice."""
    max_steps: int = 10000
    """Upper bound of the steps; the schedule follows whichever of time and steps is nearer its end."""
    practice_steps: int = 6900
    """Steps after these, on `stream.practice`."""
    practice_minutes: float = 48.0
    """Most wall-clock time of practice."""
    practice_lr: float = 0.35
    """Share of the peak learning rates at which practice begins."""
    replicas: int = 2
    """Processes, each of which computes the gradient of a batch of its own in every step."""
    tokens_per_batch: int = 2048
    """Of one replica."""
    fused: bool = True
    """Whether the parts of a layer are compiled, where there is a C++ compiler."""
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 704
    lr_muon: float = 0.02
    lr_adam: float = 0.003
    weight_decay: float = 0.01
    warmup: float = 0.02
    """Share of the run in which the learning rate rises."""
    decay: float = 0.5
    """Share of the run, at its end, in which the learning rate falls to zero."""
    checkpoint_minutes: float = 3.0
    sharpness: float = 1.2
    """Factor of the finished model's logits. A model this small is never quite sure of the next token; sampled 25
    times a reply, the unlikely ones would garble every fourth."""


@dataclass
class State:
    """Where a run stands."""

    step: int = 0
    practised: int = 0
    """Of these steps, the ones on practice."""
    seconds: float = 0.0
    practised_seconds: float = 0.0
    """Of these seconds, the ones of practice."""
    tokens: int = 0
    loss: float = math.nan


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of this size with fresh weights, or the one that the recipe goes on from, its logits not sharpened yet.

    Raises OSError if that isn't there.
    """
    torch.manual_seed(recipe.seed)
    if recipe.begin:
        model = LlamaForCausalLM.from_pretrained(recipe.begin, dtype=torch.float32)
        with torch.no_grad():
            model.model.norm.weight.div_(recipe.sharpness)
        return model
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.hidden // recipe.heads, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, rms_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.02, attention_dropout=0.0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Trainer:
    """The replicas, and the optimizers with a thread for each half of the matrices."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe = recipe
        self.model = build_model(recipe, tokenizer).train()
        self.replicas = Replicas(
            self.model, tokenizer, recipe.replicas, recipe.seed, recipe.tokens_per_batch, recipe.fused
        )
        self._threads = ThreadPoolExecutor(recipe.replicas, initializer=be_single_threaded)
        named = list(self.model.named_parameters())
        inner = [p for name, p in named if p.ndim == 2 and ".layers." in name]
        outer = [p for name, p in named if not (p.ndim == 2 and ".layers." in name)]
        self._muons = [Muon(inner[i :: recipe.replicas], lr=recipe.lr_muon, weight_decay=recipe.weight_decay)
                       for i in range(recipe.replicas)]  # fmt: skip
        self._adam = torch.optim.AdamW(outer, lr=recipe.lr_adam, betas=(0.9, 0.98), weight_decay=0.0)
        self._optims: list[torch.optim.Optimizer] = [*self._muons, self._adam]

    def step(self, factor: float) -> Share:
        """One update from a batch of each replica, at this share of the peak learning rates."""
        share = self.replicas.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optim in self._optims:
            for group in optim.param_groups:
                group["lr"] = factor * (self.recipe.lr_adam if optim is self._adam else self.recipe.lr_muon)
        list(self._threads.map(self._update, self._optims))
        return share

    @staticmethod
    def _update(optim: torch.optim.Optimizer) -> None:
        with fast_products():
            optim.step()

    def close(self) -> None:
        """End threads and processes."""
        self._threads.shutdown()
        self.replicas.close()

    def save(self, path: Path, state: State) -> None:
        """Write everything that a later run needs to go on, in one rename."""
        temporary = path.with_suffix(".tmp")
        torch.save({"model": self.model.state_dict(), "optims": [o.state_dict() for o in self._optims],
                    "state": asdict(state), "recipe": asdict(self.recipe)}, temporary)  # fmt: skip
        temporary.replace(path)

    def load(self, path: Path) -> State:
        """Go on from a checkpoint."""
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optim, state in zip(self._optims, saved["optims"], strict=True):
            optim.load_state_dict(state)
        return State(**saved["state"])


def lr_factor(progress: float, recipe: Recipe) -> float:
    """The learning rate's share of its peak at `progress` (0 to 1): up, level, down to zero."""
    if progress < recipe.warmup:
        return max(progress / recipe.warmup, 0.02)
    if progress < 1 - recipe.decay:
        return 1.0
    return max(0.0, (1 - progress) / recipe.decay)


def practice_lr_factor(progress: float, recipe: Recipe) -> float:
    """The same in practice: up within a twentieth of it, then down to zero."""
    return recipe.practice_lr * min(1 - progress, progress / 0.05 + 0.02)


def read_state(work: Path) -> State:
    """Where the run in this folder stands. Raises FileNotFoundError before its first checkpoint."""
    return State(**torch.load(work / "checkpoint.pt", weights_only=True)["state"])


@dataclass(frozen=True)
class Stage:
    """A part of the training: its text and, by how far it is (0 to 1), its learning rate's share of the peak."""

    text: str
    """One of `stream.STREAMS`."""
    progress: Callable[[State, Recipe], float]
    factor: Callable[[float, Recipe], float]
    steps: Callable[[State], int]
    """How many of the steps so far were in it."""


def _progress(state: State, recipe: Recipe) -> float:
    if state.practised:
        return 1.0
    return min(1.0, max(state.seconds / (recipe.minutes * 60), state.step / recipe.max_steps))


def _practice_progress(state: State, recipe: Recipe) -> float:
    if not recipe.practice_steps:
        return 1.0
    return min(1.0, max(state.practised_seconds / (recipe.practice_minutes * 60),
                        state.practised / recipe.practice_steps))  # fmt: skip


STAGES = (
    Stage("dialogues", _progress, lr_factor, lambda state: state.step - state.practised),
    Stage("practice", _practice_progress, practice_lr_factor, lambda state: state.practised),
)


def train(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    report: Callable[[str], None] = lambda line: None,
    stop_after: int | None = None,
) -> LlamaForCausalLM:
    """Train until both stages are done, and return the model. Resumes from `work/checkpoint.pt` if there is one.

    `stop_after` ends this call after so many steps with a checkpoint, as a kill right after one would.
    """
    trainer = Trainer(recipe, tokenizer)
    try:
        _train(trainer, work, report, stop_after)
    finally:
        trainer.close()
    return trainer.model.eval()


def _train(trainer: Trainer, work: Path, report: Callable[[str], None], stop_after: int | None) -> None:
    recipe, checkpoint = trainer.recipe, work / "checkpoint.pt"
    work.mkdir(parents=True, exist_ok=True)
    state = trainer.load(checkpoint) if checkpoint.exists() else State()
    begun, saved = time.monotonic() - state.seconds, state.seconds
    with (work / "metrics.jsonl").open("a") as metrics:
        for stage in STAGES:
            trainer.replicas.begin(stage.text, skip=stage.steps(state))
            while (progress := stage.progress(state, recipe)) < 1 and state.step != stop_after:
                share = trainer.step(stage.factor(progress, recipe))
                state = _after(state, stage, share, time.monotonic() - begun)
                if state.step % 20 == 0:
                    metrics.write(json.dumps({**asdict(state), "progress": round(progress, 4)}) + "\n")
                    metrics.flush()
                    report(_line(state, stage, progress))
                if state.seconds - saved > recipe.checkpoint_minutes * 60:
                    trainer.save(checkpoint, state)
                    saved = state.seconds
    trainer.save(checkpoint, state)


def _after(state: State, stage: Stage, share: Share, seconds: float) -> State:
    loss, practice = share.loss / share.weight, stage.text == "practice"
    return State(
        step=state.step + 1,
        practised=state.practised + practice,
        seconds=seconds,
        practised_seconds=state.practised_seconds + practice * (seconds - state.seconds),
        tokens=state.tokens + share.tokens,
        loss=loss if math.isnan(state.loss) else 0.97 * state.loss + 0.03 * loss,
    )


def _line(state: State, stage: Stage, progress: float) -> str:
    return (f"{stage.text}: step {state.step}  loss {state.loss:.3f}  "
            f"{state.tokens / max(state.seconds, 1e-9):.0f} tokens/s  {100 * progress:.1f} %  "
            f"{state.seconds / 60:.1f} min")  # fmt: skip
