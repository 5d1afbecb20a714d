"""The supervised stage of Constitutional AI (Bai et al., arXiv 2212.08073, section 3): learn one's own revisions.

The policy learns to say at once what critique and revision made of its replies to red-team prompts. Beside them go
harmless prompts with what it said to these before, so that it does not turn evasive: not the tokens that were drawn are
learned there, but the odds that it had at each of them, which is the same in the mean and moves less by chance
(distillation, arXiv 1606.09282). What corrections are held back by (`retention`) is of no use here: the questions most
like the ones that ask for harm ask for harm. In the end the update is held inside the limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Demonstration, Example, Progress, TokenIds, collate, shuffled_batches
from learner.losses import sft_loss
from learner.methods.optimizer import Stepper, within_length
from learner.methods.retention import Retention, retained, retained_tokens
from learner.methods.strength import hold_inside_limits
from service.settings import LearnerSettings

PHASE = "sl-cai"
EPOCHS = 16
LAST_RATE = 0.1
"""Of the learning rate, at the last step."""
KEPT_WEIGHT = 4.0
"""Of the loss of what is kept, against that of the revisions, per token of each."""
CHECKED_PROMPTS = 48


@dataclass(frozen=True)
class SlCaiResult:
    steps: int
    revised: int
    kept: int
    too_long: int  # revisions left out, because they do not fit the model
    skipped_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    backbone: Backbone,
    revised: Sequence[Demonstration],
    kept: Sequence[Example],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
) -> SlCaiResult:
    """Train the policy in place. `prompts`: what people ask, where its strength is measured. Same seed, same result.

    Raises TrainingFailed when the loss stays without a finite value.
    """
    fitting, too_long = within_length(revised, backbone.max_length)
    if not fitting:
        return SlCaiResult(0, 0, len(kept), too_long, 0)
    rng = Random(settings.seed)
    retention = Retention(backbone, retained(backbone, kept), rng)
    beside = round(settings.batch_size * len(kept) / len(fitting))
    stepper = Stepper(backbone.trainable(), settings.sft_learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
    steps, step = EPOCHS * -(-len(fitting) // settings.batch_size), 0
    progress(PHASE, 0, steps, {})
    for _ in range(EPOCHS):
        for indices in shuffled_batches(len(fitting), settings.batch_size, rng):
            taught = [fitting[index] for index in indices]
            metrics = stepper.add("revisions", taught, partial(_loss, backbone), weight=_tokens)
            metrics |= stepper.add(
                "kept replies", retention.draw(beside), retention.loss, weight=retained_tokens, factor=KEPT_WEIGHT
            )
            metrics |= stepper.update(1 + (LAST_RATE - 1) * step / steps)
            step += 1
            progress(PHASE, step, steps, metrics)
    checked = rng.sample(list(prompts), min(CHECKED_PROMPTS, len(prompts)))
    scale, measured = hold_inside_limits(backbone, None, checked, settings) if checked else (1.0, {})
    return SlCaiResult(step, len(fitting), len(kept), too_long, stepper.skipped, {"scale": scale} | measured)


def _loss(backbone: Backbone, taught: Sequence[Demonstration]) -> tuple[Tensor, dict[str, float]]:
    batch = collate([(one.prompt_token_ids, one.reply_token_ids) for one in taught], backbone.pad_id)
    weights = torch.tensor([one.weight for one in taught])
    return sft_loss(backbone.log_probs(batch), batch.reply_mask.to(backbone.device), weights)


def _tokens(taught: Sequence[Demonstration]) -> float:
    return sum(one.weight * len(one.reply_token_ids) for one in taught)
