"""Supervised fine-tuning on corrections, without moving anything else.

Each step takes a batch of corrections (maximise their likelihood) and a batch of what the policy said before to other
prompts (keep saying it: KL from the starting policy, over its most likely tokens). Training stops as soon as every
correction is what the policy would say; a handful of corrections takes seconds. Retention by distillation follows
"Learning without Forgetting" (arXiv 1606.09282), on the model's own replies instead of stored data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Demonstration, Progress, TokenIds, collate, shuffled_batches
from learner.losses import sft_loss
from learner.methods.optimizer import Stepper, within_length
from learner.sampling import sample
from learner.tensors import kl_top, top_log_probs
from service.settings import LearnerSettings

PHASE = "sft"
LEARNED_LOG_PROB = -0.2  # of a whole correction: P ≈ 0.82; training stops when all are above
FEWEST_STEPS = 160  # that few corrections may take, however few the epochs; most stop long before
RETAINED_PROMPTS = 96
RETENTION_WEIGHT = 8.0  # at 1, one correction cost other answers a tenth of their accuracy and fluency 0.2 nats a token
TOP_TOKENS = 256


@dataclass(frozen=True)
class SftResult:
    steps: int
    learned: int  # corrections whose log-probability reached LEARNED_LOG_PROB
    demonstrations: int
    too_long: int  # left out, because they do not fit the model
    skipped_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Retained:
    """What the starting policy said to a prompt, and its distribution at every token."""

    prompt: TokenIds
    reply: TokenIds
    top_ids: Tensor  # (len(reply), K)
    top: Tensor  # (len(reply), K) log-probabilities


def train(
    backbone: Backbone,
    demonstrations: Sequence[Demonstration],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
) -> SftResult:
    """Train the policy in place. `prompts`: what else people ask, where replies should stay as they are.

    Same seed, same result. Raises TrainingFailed when the loss stays without a finite value.
    """
    fitting, too_long = within_length(demonstrations, backbone.max_length)
    if not fitting:
        return SftResult(0, 0, 0, too_long, 0)
    rng = Random(settings.seed)
    retained = _retained(backbone, fitting, prompts, rng, settings.seed)
    stepper = Stepper(backbone.trainable(), settings.sft_learning_rate, warmup=4)
    per_epoch = -(-len(fitting) // settings.batch_size)
    steps = per_epoch * max(settings.sft_epochs, -(-FEWEST_STEPS // per_epoch))
    step = 0
    while step < steps:
        if min(log_probs := _log_probs(backbone, fitting)) >= LEARNED_LOG_PROB:
            break
        for indices in shuffled_batches(len(fitting), settings.batch_size, rng):
            step += 1
            metrics = _step(backbone, [fitting[i] for i in indices], retained, rng, settings.batch_size, stepper)
            progress(PHASE, step, steps, metrics | {"worst_correction": min(log_probs)})
    log_probs = _log_probs(backbone, fitting)
    learned = sum(value >= LEARNED_LOG_PROB for value in log_probs)
    metrics = {"correction_log_prob": sum(log_probs) / len(log_probs), "worst_correction": min(log_probs)}
    return SftResult(step, learned, len(fitting), too_long, stepper.skipped, metrics)


def _step(
    backbone: Backbone,
    demonstrations: Sequence[Demonstration],
    retained: Sequence[Retained],
    rng: Random,
    size: int,
    stepper: Stepper,
) -> dict[str, float]:
    batch = collate([(d.prompt_token_ids, d.reply_token_ids) for d in demonstrations], backbone.pad_id)
    weights = torch.tensor([d.weight for d in demonstrations])
    loss, metrics = sft_loss(backbone.log_probs(batch), batch.reply_mask.to(backbone.device), weights)
    if retained:
        kept = rng.sample(retained, min(size, len(retained)))
        retention = _retention(backbone, kept)
        loss = loss + RETENTION_WEIGHT * retention
        metrics["retention_kl"] = retention.item()
    return metrics | stepper.step(loss)


def _retention(backbone: Backbone, kept: Sequence[Retained]) -> Tensor:
    logits, _, _ = backbone.logits(collate([(k.prompt, k.reply) for k in kept], backbone.pad_id))
    top_ids = torch.cat([k.top_ids for k in kept]).to(logits.device)
    return kl_top(logits, top_ids, torch.cat([k.top for k in kept]).to(logits.device)).mean()


@torch.no_grad()
def _retained(
    backbone: Backbone, demonstrations: Sequence[Demonstration], prompts: Sequence[TokenIds], rng: Random, seed: int
) -> list[Retained]:
    """Sample the starting policy on prompts that nobody corrected."""
    corrected = {d.prompt_token_ids for d in demonstrations}
    others = sorted(set(prompts) - corrected)
    others = [p for p in rng.sample(others, min(RETAINED_PROMPTS, len(others))) if len(p) < backbone.max_length]
    kept = []
    for prompt, (reply,) in zip(others, sample(backbone, others, seed=seed), strict=True):
        logits, _, _ = backbone.logits(collate([(prompt, reply.token_ids)], backbone.pad_id))
        kept.append(Retained(prompt, reply.token_ids, *(t.cpu() for t in top_log_probs(logits, TOP_TOKENS))))
    return kept


def _log_probs(backbone: Backbone, demonstrations: Sequence[Demonstration]) -> list[float]:
    examples = [(d.prompt_token_ids, d.reply_token_ids) for d in demonstrations]
    values: list[float] = backbone.score(examples, "policy").tolist()
    return values
