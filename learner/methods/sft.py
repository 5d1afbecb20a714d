"""Supervised fine-tuning on corrections, without moving anything else.

Each step takes a batch of corrections (maximise their likelihood) and a batch of what is to stay, the replies to other
prompts (`retention`). First the policy learns: at the full rate, on the corrections that it wouldn't
give yet and as many of the others, until it would give each. Then it settles: the rate falls, on all corrections alike,
until all that is retained was gone through a few times. A handful of corrections takes seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Demonstration, Progress, TokenIds, collate
from learner.losses import sft_loss
from learner.methods.optimizer import Stepper, within_length
from learner.methods.passes import Passes
from learner.methods.retention import Retention, retain, retained_tokens
from learner.stage_checkpoint import StageCheckpoint
from service.settings import LearnerSettings

PHASE = "sft"
LEARNED_LOG_PROB = -0.35  # of a whole correction: P ≈ 0.7; where all are above, nothing is trained
SAID_LOG_PROB = -0.7  # P ≈ 0.5: the policy learns until all are above; what is missing comes while it settles
FEWEST_PASSES, FEWEST_STEPS = 12, 240  # that may be taken to learn them, unless `sft_epochs` says it; most need fewer
SETTLING_STEPS, SETTLING_SHARE = 40, 3  # at least; and one for so many in which it learned
PASSES = 2  # over all that is retained, at least: a correction is learned before its neighbours are back in place
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
    keep: Role = "policy",
    checkpoint: StageCheckpoint | None = None,
    measured: Collection[TokenIds] = (),
) -> SftResult:
    """Train the policy in place. `prompts`: what else people ask, where replies should stay what `keep` says; those in
    `measured` are never trained on.

    `checkpoint`: where it is kept how far the training is, and what it goes on from. Same seed, same result, be the
    training unbroken or not. Raises TrainingFailed when the loss stays without a finite value.
    """
    fitting, too_long = within_length(demonstrations, backbone.max_length)
    if not fitting:
        return SftResult(0, 0, 0, too_long, 0)
    rng = Random(settings.seed)
    log_probs, steps, skipped = _log_probs(backbone, fitting), 0, 0
    if min(log_probs) < LEARNED_LOG_PROB:
        retained = retain(backbone, fitting, prompts, rng, settings.seed, keep, measured)
        retention = Retention(backbone, retained, rng)
        course = _Course(backbone, fitting, log_probs, retention, settings, rng, progress, checkpoint)
        course.run()
        course.stepper.end()
        log_probs, steps, skipped = course.log_probs, course.passes.step, course.stepper.skipped
    learned = sum(value >= LEARNED_LOG_PROB for value in log_probs)
    metrics = {"correction_log_prob": sum(log_probs) / len(log_probs), "worst_correction": min(log_probs)}
    return SftResult(steps, learned, len(fitting), too_long, skipped, metrics)


class _Course:
    """The steps of one training; `log_probs` are those of the corrections by now."""

    def __init__(
        self,
        backbone: Backbone,
        demonstrations: Sequence[Demonstration],
        log_probs: list[float],
        retention: Retention,
        settings: LearnerSettings,
        rng: Random,
        progress: Progress,
        checkpoint: StageCheckpoint | None = None,
    ) -> None:
        self._backbone, self._demonstrations, self.log_probs = backbone, demonstrations, log_probs
        self._retention, self._rng, self._progress = retention, rng, progress
        self._size, self._epochs = settings.batch_size, settings.sft_epochs
        self.stepper = Stepper(backbone.trainable(), settings.sft_learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
        self._chosen: list[int] = []  # to learn, in the pass under way
        self._just_measured = True  # are `log_probs`, with no step since
        self._settling: tuple[int, int] | None = None  # after which step it does, and in how many
        self.passes = Passes(PHASE, backbone, self.stepper, rng, checkpoint, beside=self._state)
        if self.passes.kept:
            self._load_state(self.passes.kept)

    def run(self) -> None:
        """Take all steps that are left."""
        if self._settling is None:
            self._learn()
            begun = self.passes.step
            least = self._retention.steps_to(PASSES, self._size)
            self._settling = begun, max(SETTLING_STEPS, begun // SETTLING_SHARE, least)
        self._settle(*self._settling)

    def _learn(self) -> None:
        """At the full rate, until each correction is what the policy would say, or the steps for it are used up."""
        per_epoch = -(-len(self._demonstrations) // self._size)
        most = per_epoch * (self._epochs or max(FEWEST_PASSES, -(-FEWEST_STEPS // per_epoch)))
        while self.passes.under_way or (self.passes.step < most and min(self.log_probs) < SAID_LOG_PROB):
            if not self.passes.under_way:
                self._chosen = self._to_learn()
            for batch in self.passes.batches(len(self._chosen), self._size):
                self._take([self._chosen[place] for place in batch], 1.0, most + SETTLING_STEPS)
            self.log_probs, self._just_measured = _log_probs(self._backbone, self._demonstrations), True

    def _settle(self, begun: int, count: int) -> None:
        """At a falling rate, until all that is retained was drawn often enough."""
        while self.passes.step < begun + count:
            epoch = self.passes.batches(len(self._demonstrations), self._size)
            for batch in islice(epoch, begun + count - self.passes.step):
                rate = 1 + (LAST_RATE - 1) * (self.passes.step - begun) / count
                self._take(batch, rate, begun + count)
        self.log_probs = _log_probs(self._backbone, self._demonstrations)

    def _state(self) -> dict[str, Any]:
        """All that decides later steps, beside what `Passes` knows."""
        return {
            "log_probs": self.log_probs,
            "chosen": self._chosen,
            "just_measured": self._just_measured,
            "settling": self._settling,
            "retention": self._retention.state(),
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.log_probs, self._chosen = state["log_probs"], state["chosen"]
        self._just_measured = state["just_measured"]
        self._settling = state["settling"] and tuple(state["settling"])
        self._retention.load_state(state["retention"])

    def _to_learn(self) -> list[int]:
        """The corrections that aren't learned yet, and as many of the others, which must not be lost over them."""
        known = [index for index, value in enumerate(self.log_probs) if value >= SAID_LOG_PROB]
        wanted = [index for index, value in enumerate(self.log_probs) if value < SAID_LOG_PROB]
        return wanted + self._rng.sample(known, min(len(known), len(wanted)))

    def _take(self, indices: Sequence[int], rate: float, steps: int) -> None:
        """One step on these corrections, at this share of the learning rate; `steps` is how many there may be."""
        taught, stepper = [self._demonstrations[index] for index in indices], self.stepper
        metrics = stepper.add("corrections", taught, self._loss, weight=_weight)
        metrics["retention_kl"] = 0.0
        if self._just_measured:
            metrics["worst_correction"], self._just_measured = min(self.log_probs), False
        kept, loss = self._retention.draw(self._size), self._retention.loss
        metrics |= stepper.add("kept replies", kept, loss, weight=retained_tokens, factor=RETENTION_WEIGHT)
        metrics |= stepper.update(rate)
        self._progress(PHASE, self.passes.step, steps, metrics)

    def _loss(self, taught: Sequence[Demonstration]) -> tuple[Tensor, dict[str, float]]:
        batch = collate([(one.prompt_token_ids, one.reply_token_ids) for one in taught], self._backbone.pad_id)
        weights = torch.tensor([one.weight for one in taught])
        return sft_loss(self._backbone.log_probs(batch), batch.reply_mask.to(self._backbone.device), weights)


def _weight(taught: Sequence[Demonstration]) -> float:
    return sum(one.weight * len(one.reply_token_ids) for one in taught)


def _log_probs(backbone: Backbone, demonstrations: Sequence[Demonstration]) -> list[float]:
    examples = [(d.prompt_token_ids, d.reply_token_ids) for d in demonstrations]
    values: list[float] = backbone.score(examples, "policy").tolist()
    return values
