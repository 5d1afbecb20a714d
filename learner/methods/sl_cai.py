"""The supervised stage of Constitutional AI (Bai et al., arXiv 2212.08073, section 3): learn one's own revisions.

The policy learns to say at once what critique and revision made of its replies to red-team prompts. Beside them go
harmless prompts with what it said to these before (`learner.methods.beside_kept`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Demonstration, Example, Progress, TokenIds, collate
from learner.losses import sft_loss
from learner.methods.beside_kept import Learned, Lesson, learn
from learner.methods.optimizer import within_length
from learner.stage_checkpoint import StageCheckpoint
from service.settings import LearnerSettings

PHASE = "sl-cai"
EPOCHS = 8
RATE = 2.5
"""Times the learning rate of corrections: here what is kept holds the policy, by its weight."""
KEPT_WEIGHT = 10.0


def train(
    backbone: Backbone,
    revised: Sequence[Demonstration],
    kept: Sequence[Example],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
    checkpoint: StageCheckpoint | None = None,
) -> Learned:
    """Train the policy in place. `prompts`: what people ask, where its strength is measured. Same seed, same result.

    `checkpoint`: as in `beside_kept.learn`. Raises TrainingFailed as that does.
    """
    fitting, too_long = within_length(revised, backbone.max_length)
    lesson = Lesson(
        PHASE, fitting, partial(_loss, backbone), _tokens, EPOCHS, RATE * settings.sft_learning_rate, KEPT_WEIGHT
    )  # fmt: skip
    rng = Random(settings.seed)
    return learn(backbone, lesson, kept, prompts, settings, progress, rng, too_long, checkpoint)


def _loss(backbone: Backbone, taught: Sequence[Demonstration]) -> tuple[Tensor, dict[str, float]]:
    batch = collate([(one.prompt_token_ids, one.reply_token_ids) for one in taught], backbone.pad_id)
    weights = torch.tensor([one.weight for one in taught])
    return sft_loss(backbone.log_probs(batch), batch.reply_mask.to(backbone.device), weights)


def _tokens(taught: Sequence[Demonstration]) -> float:
    return sum(one.weight * len(one.reply_token_ids) for one in taught)
