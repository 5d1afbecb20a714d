"""How both stages of Constitutional AI learn: from what they are given, beside what is to stay as it is.

To harmless prompts the policy goes on saying what it said before, so that it does not turn evasive: not the tokens that
were drawn are learned there, but the odds that it had at each of them, which is the same in the mean and moves less by
chance (distillation, arXiv 1606.09282). What corrections are held back by (`retain`) is of no use here: the questions
most like the ones that ask for harm ask for harm. In the end the update is held inside the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Example, Progress, TokenIds
from learner.methods.optimizer import Stepper
from learner.methods.passes import Passes
from learner.methods.retention import Retention, retained, retained_tokens
from learner.methods.strength import hold_on_some
from learner.stage_checkpoint import StageCheckpoint
from service.errors import TrainingFailed
from service.settings import LearnerSettings

T = TypeVar("T")

LAST_RATE = 0.1
"""Of the learning rate, at the last step."""
CHECKED_PROMPTS = 48


@dataclass(frozen=True)
class Lesson(Generic[T]):
    """What is learned and how: `loss` of some examples, and what they weigh together."""

    phase: str
    examples: Sequence[T]
    loss: Callable[[Sequence[T]], tuple[Tensor, dict[str, float]]]
    weight: Callable[[Sequence[T]], float]
    epochs: int
    learning_rate: float
    kept_weight: float  # of the loss of what is kept, against that of the examples, per token or weight of each


@dataclass(frozen=True)
class Learned:
    steps: int
    examples: int
    kept: int
    too_long: int  # examples left out, because they do not fit the model
    skipped_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


def learn(
    backbone: Backbone,
    lesson: Lesson[T],
    kept: Sequence[Example],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
    rng: Random,
    too_long: int,
    checkpoint: StageCheckpoint | None = None,
) -> Learned:
    """Train the policy in place. `prompts`: what people ask, where the update's strength is measured.

    `checkpoint`: where it is kept how far the training is, and what it goes on from; the result is that of one unbroken
    training. Raises TrainingFailed when there is nothing to learn, and when the loss stays without a finite value.
    """
    count = len(lesson.examples)
    if not count:
        why = f": none of {too_long} fits the model's context" if too_long else ""
        what = "Take a model with a longer context." if too_long else "See what the run's folder has of them."
        raise TrainingFailed(f"{lesson.phase} has no examples to learn from{why}.", what)
    retention = Retention(backbone, retained(backbone, kept), rng)
    beside = round(settings.batch_size * len(kept) / count)
    stepper = Stepper(backbone.trainable(), lesson.learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
    steps = lesson.epochs * -(-count // settings.batch_size)
    progress(lesson.phase, 0, steps, {})
    passes = Passes(lesson.phase, backbone, stepper, rng, checkpoint, beside=retention.state)
    if passes.kept:
        retention.load_state(passes.kept)
    while passes.step < steps:
        for indices in passes.batches(count, settings.batch_size):
            some = [lesson.examples[index] for index in indices]
            metrics = stepper.add("examples", some, lesson.loss, weight=lesson.weight)
            metrics |= stepper.add(
                "kept replies", retention.draw(beside), retention.loss, weight=retained_tokens,
                factor=lesson.kept_weight,
            )  # fmt: skip
            metrics |= stepper.update(1 + (LAST_RATE - 1) * (passes.step - 1) / steps)
            progress(lesson.phase, passes.step, steps, metrics)
    stepper.end()
    scale, measured = hold_on_some(backbone, prompts, CHECKED_PROMPTS, settings, rng, {}, None)
    return Learned(steps, count, len(kept), too_long, stepper.skipped, {"scale": scale} | measured)
