"""The training loop of the built-in model: next-token prediction on packed dialogues, from scratch, on a CPU.

Departs from the usual recipe where a small machine gains by it: Muon (Jordan et al. 2024, see `muon.py`) for the
matrices inside the layers and AdamW for the rest; matrix products in bfloat16 where the processor has instructions for
them, all else in float32; attention one dialogue at a time (`learner.packing`); the loss on the assistant's tokens with
full weight and on the user's with a small one; one thread per replica, each with rows of its own, so that a busy
neighbour on the machine stalls a step once and not every matrix product. The learning rate holds and then decays to
zero (warm-up, stable, decay), by elapsed share of the time allowed, so a run that is given less time is annealed all
the same. At the end comes practice: it warms up once more, a little, and decays on text that has more of what is hard.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from learner.packing import NO_MASK, PACKED, Segment
from learner.pretrain.corpus import Rows, batches
from learner.pretrain.dialogue import Dialogue
from learner.pretrain.muon import Muon
from learner.pretrain.stream import dialogues, practice
from learner.pretrain.tokenizer import CONTEXT


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, together with the text."""

    seed: int = 1
    begin: str = ""
    """A folder with the finished model of an earlier training to go on from, sizes and tokenizer included."""
    minutes: float = 90.0
    """Most wall-clock time of the training before practice."""
    max_steps: int = 10000
    """Upper bound of the steps; the schedule follows whichever of time and steps is nearer its end."""
    practice_steps: int = 1200
    """Steps after these, on `stream.practice`."""
    practice_lr: float = 0.35
    """Share of the peak learning rates at which practice begins."""
    replicas: int = 2
    """Threads, each of which computes the gradient of a batch of its own in every step."""
    tokens_per_batch: int = 2048
    """Of one replica."""
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


def batch_loss(model: LlamaForCausalLM, rows: Rows) -> torch.Tensor:
    """Weighted sum of the cross-entropies of a packed batch; attention stays within each dialogue."""
    ids = torch.from_numpy(rows.ids)  # (B, T)
    hidden = model.model(
        input_ids=ids, position_ids=torch.from_numpy(rows.positions), attention_mask=NO_MASK, use_cache=False,
        segments=[[Segment(length) for length in row] for row in rows.lengths],
    ).last_hidden_state  # (B, T, H)  # fmt: skip
    weights = torch.from_numpy(rows.weights)[:, 1:]  # (B, T-1)
    picked = weights > 0
    logits = model.lm_head(hidden[:, :-1][picked])  # (N, V)
    losses = F.cross_entropy(logits.float(), ids[:, 1:][picked], reduction="none")  # (N,)
    return (losses * weights[picked]).sum()


def _twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A replica with the same parameter storage and gradients of its own."""
    twin = copy.deepcopy(model)
    for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
        own.data = shared.data
    return twin


def _fast_products() -> torch.autocast:
    """Matrix products in bfloat16, where that is faster (about twice)."""
    able = torch.cpu.get_capabilities()
    fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)


def _be_single_threaded() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


class Trainer:
    """The replicas, their threads and the optimizers."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe = recipe
        self.model = build_model(recipe, tokenizer).train()
        self.model.set_attn_implementation(PACKED)
        self.replicas = [self.model] + [_twin(self.model) for _ in range(recipe.replicas - 1)]
        self.threads = ThreadPoolExecutor(recipe.replicas, initializer=_be_single_threaded)
        named = list(self.model.named_parameters())
        inner = [p for name, p in named if p.ndim == 2 and ".layers." in name]
        outer = [p for name, p in named if not (p.ndim == 2 and ".layers." in name)]
        self.muons = [Muon(inner[i :: recipe.replicas], lr=recipe.lr_muon, weight_decay=recipe.weight_decay)
                      for i in range(recipe.replicas)]  # fmt: skip
        self.adam = torch.optim.AdamW(outer, lr=recipe.lr_adam, betas=(0.9, 0.98), weight_decay=0.0)
        self.optims: list[torch.optim.Optimizer] = [*self.muons, self.adam]

    def step(self, batch: list[Rows], factor: float) -> float:
        """One update from one batch for each replica, at this share of the peak learning rates. Returns the loss."""
        total = float(sum(rows.weights[:, 1:].sum() for rows in batch))
        losses = list(self.threads.map(self._backward, self.replicas, batch, [total] * len(batch)))
        for twin in self.replicas[1:]:
            for own, shared in zip(twin.parameters(), self.model.parameters(), strict=True):
                shared.grad = own.grad if shared.grad is None else shared.grad.add_(own.grad)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optim in self.optims:
            for group in optim.param_groups:
                group["lr"] = factor * (self.recipe.lr_adam if optim is self.adam else self.recipe.lr_muon)
        list(self.threads.map(self._update, self.optims))
        for replica in self.replicas:
            replica.zero_grad(set_to_none=True)
        return sum(losses)

    @staticmethod
    def _backward(replica: LlamaForCausalLM, rows: Rows, total: float) -> float:
        with _fast_products():
            loss = batch_loss(replica, rows) / total
        torch.autograd.backward(loss)
        return loss.item()

    @staticmethod
    def _update(optim: torch.optim.Optimizer) -> None:
        with _fast_products():
            optim.step()

    def save(self, path: Path, state: State) -> None:
        """Write everything that a later run needs to go on, in one rename."""
        temporary = path.with_suffix(".tmp")
        torch.save({"model": self.model.state_dict(), "optims": [o.state_dict() for o in self.optims],
                    "state": asdict(state), "recipe": asdict(self.recipe)}, temporary)  # fmt: skip
        temporary.replace(path)

    def load(self, path: Path) -> State:
        """Go on from a checkpoint."""
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optim, state in zip(self.optims, saved["optims"], strict=True):
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

    text: Callable[[int], Iterator[Dialogue]]
    progress: Callable[[State, Recipe], float]
    factor: Callable[[float, Recipe], float]
    steps: Callable[[State], int]
    """How many of the steps so far were in it."""


def _progress(state: State, recipe: Recipe) -> float:
    if state.practised:
        return 1.0
    return min(1.0, max(state.seconds / (recipe.minutes * 60), state.step / recipe.max_steps))


STAGES = (
    Stage(dialogues, _progress, lr_factor, lambda state: state.step - state.practised),
    Stage(
        practice,
        lambda state, recipe: state.practised / recipe.practice_steps if recipe.practice_steps else 1.0,
        practice_lr_factor,
        lambda state: state.practised,
    ),
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
    checkpoint = work / "checkpoint.pt"
    work.mkdir(parents=True, exist_ok=True)
    state = trainer.load(checkpoint) if checkpoint.exists() else State()
    begun, saved = time.monotonic() - state.seconds, state.seconds
    with (work / "metrics.jsonl").open("a") as metrics:
        for stage in STAGES:
            skip = stage.steps(state) * recipe.replicas
            stream = batches(tokenizer, stage.text(recipe.seed), recipe.tokens_per_batch, skip=skip)
            while (progress := stage.progress(state, recipe)) < 1 and state.step != stop_after:
                batch = list(islice(stream, recipe.replicas))
                loss = trainer.step(batch, stage.factor(progress, recipe))
                state = _after(state, stage, loss, batch, time.monotonic() - begun)
                if state.step % 20 == 0:
                    metrics.write(json.dumps({**asdict(state), "progress": round(progress, 4)}) + "\n")
                    metrics.flush()
                    report(_line(state, stage, progress))
                if state.seconds - saved > recipe.checkpoint_minutes * 60:
                    trainer.save(checkpoint, state)
                    saved = state.seconds
    trainer.save(checkpoint, state)
    trainer.threads.shutdown()
    trainer.model.set_attn_implementation("sdpa")
    return trainer.model.eval()


def _after(state: State, stage: Stage, loss: float, batch: list[Rows], seconds: float) -> State:
    return State(
        step=state.step + 1,
        practised=state.practised + (stage.text is practice),
        seconds=seconds,
        tokens=state.tokens + sum(int((rows.documents > 0).sum()) for rows in batch),
        loss=loss if math.isnan(state.loss) else 0.97 * state.loss + 0.03 * loss,
    )


def _line(state: State, stage: Stage, progress: float) -> str:
    return (f"{stage.text.__name__}: step {state.step}  loss {state.loss:.3f}  "
            f"{state.tokens / max(state.seconds, 1e-9):.0f} tokens/s  {100 * progress:.1f} %  "
            f"{state.seconds / 60:.1f} min")  # fmt: skip
