"""Supervised fine-tuning on corrections, without moving anything else.

Each step takes a batch of corrections (maximise their likelihood) and a batch of what the policy said before to other
prompts (keep saying it: `retention`). Training stops once every correction is what the policy would say and what is
retained was gone through a few times; a handful of corrections takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from learner.backbone import Backbone
from learner.batch import Demonstration, Progress, TokenIds, collate, shuffled_batches
from learner.losses import sft_loss
from learner.methods.optimizer import Stepper, within_length
from learner.methods.retention import Retention, retain
from service.settings import LearnerSettings

PHASE = "sft"
LEARNED_LOG_PROB = -0.2  # of a whole correction: P ≈ 0.82; training stops when all are above
FEWEST_STEPS = 180  # that few corrections may take, however few the epochs; most stop long before
PASSES = 3  # over all that is retained, at least: a correction is learned before its neighbours are back in place
LAST_RATE = 0.05
"""Of the learning rate, at the last step: what large steps move at random, small ones put back."""
RETENTION_WEIGHT = 24.0  # at 8, forty corrections cost other answers of their kind a tenth of their accuracy


@dataclass(frozen=True)
class SftResult:
    steps: int
    learned: int  # corrections whose log-probability reached LEARNED_LOG_PROB
    demonstrations: int
    too_long: int  # left out, because they do not fit the model
    skipped_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


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
    log_probs, step, skipped = _log_probs(backbone, fitting), 0, 0
    if min(log_probs) < LEARNED_LOG_PROB:
        retention = Retention(backbone, retain(backbone, fitting, prompts, rng, settings.seed), rng)
        stepper = Stepper(backbone.trainable(), settings.sft_learning_rate, warmup=4)
        per_epoch = -(-len(fitting) // settings.batch_size)
        steps = per_epoch * max(settings.sft_epochs, -(-FEWEST_STEPS // per_epoch))
        while step < steps and (min(log_probs) < LEARNED_LOG_PROB or retention.passes < PASSES):
            for indices in shuffled_batches(len(fitting), settings.batch_size, rng):
                step += 1
                rate = 1 + (LAST_RATE - 1) * step / steps
                metrics = _step(backbone, [fitting[i] for i in indices], retention, settings.batch_size, stepper, rate)
                progress(PHASE, step, steps, metrics | {"worst_correction": min(log_probs)})
            log_probs = _log_probs(backbone, fitting)
        skipped = stepper.skipped
    learned = sum(value >= LEARNED_LOG_PROB for value in log_probs)
    metrics = {"correction_log_prob": sum(log_probs) / len(log_probs), "worst_correction": min(log_probs)}
    return SftResult(step, learned, len(fitting), too_long, skipped, metrics)


def _step(
    backbone: Backbone,
    demonstrations: Sequence[Demonstration],
    retention: Retention,
    size: int,
    stepper: Stepper,
    rate: float,
) -> dict[str, float]:
    batch = collate([(d.prompt_token_ids, d.reply_token_ids) for d in demonstrations], backbone.pad_id)
    weights = torch.tensor([d.weight for d in demonstrations]).to(backbone.device)
    loss, metrics = sft_loss(backbone.log_probs(batch), batch.reply_mask.to(backbone.device), weights)
    kept = retention.loss(size)
    return metrics | {"retention_kl": kept.item()} | stepper.step(loss + RETENTION_WEIGHT * kept, rate)


def _log_probs(backbone: Backbone, demonstrations: Sequence[Demonstration]) -> list[float]:
    examples = [(d.prompt_token_ids, d.reply_token_ids) for d in demonstrations]
    values: list[float] = backbone.score(examples, "policy").tolist()
    return values
