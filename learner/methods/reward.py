"""Fit a reward model: how much people like a reply, from comparisons, rankings, thumbs and scores.

Bradley-Terry on pairs (InstructGPT, arXiv 2203.02155, eq. 1), a ranking's pairs, or those of a person's scores of one
prompt, together in one step and as one group; thumbs as labels of the same reward (good where it is above 0); single
scores by Huber's regression (`bagging`). Of 40 prompts or more some are kept apart: they say when to stop, how often
the reward is right (a little flattered, as it was chosen by them), and by how much it has to be divided to be the
log-odds of being preferred (arXiv 1706.04599).

A killed fit goes on from its checkpoint, and comes to what the unbroken one comes to.

    model = reward.fit(backbone, pairs, labels, settings.learner, progress)
    graded = model.grade([(prompt, reply), …])
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from learner.backbone import Backbone
from learner.batch import Label, Pair, Progress, Scored, TokenIds
from learner.counted import counted
from learner.methods.bagging import BaggedJudgements
from learner.methods.optimizer import Stepper, check_finite, within_length
from learner.methods.passes import Passes
from learner.methods.reward_model import RewardFit, RewardModel
from learner.stage_checkpoint import StageCheckpoint
from service.errors import TrainingFailed
from service.settings import LearnerSettings

log = logging.getLogger("hone.learner")

PHASE = "reward"
KEPT_APART = 5
"""One prompt in so many, where there are at least FEWEST_KEPT of them; fewer tell nothing, and all are learned from."""
FEWEST_KEPT = 8
PATIENCE = 3
"""Passes without a better log-likelihood of what is kept apart, after which training stops."""
LAST_RATE = 0.1


def fit(
    backbone: Backbone,
    pairs: Sequence[Pair],
    labels: Sequence[Label],
    settings: LearnerSettings,
    progress: Progress,
    scored: Sequence[Scored] = (),
    checkpoint: StageCheckpoint | None = None,
    alone_weight: float = 1.0,
) -> RewardModel:
    """Train the backbone's reward role, from nothing. Same seed, same result.

    `checkpoint`: where it is kept how far the fit is, under the name PHASE, and what it goes on from. `alone_weight`:
    what a label, or a score, counts against a pair. Raises TrainingFailed when there is neither a decided pair nor
    labels of both kinds nor two different scores, or when the loss stays without a finite value.
    """
    fitting, too_long = within_length(pairs, backbone.max_length)
    called, more = within_length(labels, backbone.max_length)
    rated, even_more = within_length(scored, backbone.max_length)
    decided = any(not pair.tie for pair in fitting)
    if not decided and len({label.desirable for label in called}) < 2 and len({one.points for one in rated}) < 2:
        raise TrainingFailed(
            "There is nothing to fit a reward model to.",
            "It needs comparisons with a better reply, replies called good and others called bad (by thumbs, or by "
            "labels of harm), or different scores.",
        )
    backbone.add_head("reward", settings.reward_members, settings.seed)
    rng = Random(settings.seed)
    judged: list[Pair | Label | Scored] = [*fitting, *called, *rated]
    apart = _kept_apart(judged, rng)
    if not apart:
        log.info(
            "The reward is not calibrated, and nothing ends its training early: %s, %d are needed.",
            counted(len({one.prompt_token_ids for one in judged}), "prompt"), KEPT_APART * FEWEST_KEPT,
        )  # fmt: skip
    taught, kept = (
        BaggedJudgements(
            backbone,
            [one for one in fitting if (one.prompt_token_ids in apart) == is_kept],
            [one for one in called if (one.prompt_token_ids in apart) == is_kept],
            [one for one in rated if (one.prompt_token_ids in apart) == is_kept],
            settings,
            None if is_kept else settings.seed,
            alone_weight,
        )
        for is_kept in (False, True)
    )
    course = _Course(backbone, taught, kept if apart else None, settings, rng, checkpoint)
    course.run(progress)
    counts = {"pairs": len(fitting), "labels": len(called), "scores": len(rated), "kept": len(apart)}
    counts |= {"too_long": too_long + more + even_more, "members": settings.reward_members}
    counts |= {"steps": course.step, "skipped_steps": course.skipped}
    figures = kept.figures()
    if not apart:
        check_finite({"log_loss": taught.log_loss()})
    check_finite({name: value for name, value in figures.items() if value is not None})
    return RewardModel(backbone, RewardFit(**counts, **figures))


class _Course:
    """The passes of one fit. `kept`: what says when to stop; None: nothing, and all passes are made."""

    def __init__(
        self, backbone: Backbone, taught: BaggedJudgements, kept: BaggedJudgements | None, settings: LearnerSettings,
        rng: Random, checkpoint: StageCheckpoint | None,
    ) -> None:  # fmt: skip
        self._backbone, self._taught, self._kept = backbone, taught, kept
        self._size = settings.batch_size
        own, rate = backbone.trainable("reward"), settings.reward_learning_rate
        self._stepper = Stepper(own, rate, warmup=4, in_4_bits=backbone.in_4_bits)
        self._steps = settings.reward_epochs * len(list(taught.batches(self._size, Random(0))))
        self._since, self._best, self._best_state = 0, math.inf, backbone.adapter_state("reward")
        self._passes = Passes(PHASE, backbone, self._stepper, rng, checkpoint, beside=self._state, role="reward")
        if before := self._passes.kept:
            self._since, self._best, self._best_state = before["since"], before["best"], before["best_state"]

    @property
    def step(self) -> int:
        """The last one that was taken."""
        return self._passes.step

    @property
    def skipped(self) -> int:
        """Steps without a finite loss or gradient."""
        return self._stepper.skipped

    def run(self, progress: Progress) -> None:
        """Take all steps that are left, and leave the reward role as it was when it was best."""
        progress(PHASE, self.step, self._steps, {})
        while (self.step < self._steps and self._since < PATIENCE) or self._passes.under_way:
            for of_step in self._passes.through(partial(self._taught.batches, self._size)):
                metrics = self._taught.add(self._stepper, of_step)
                metrics |= self._stepper.update(1 + (LAST_RATE - 1) * self.step / self._steps)
                progress(PHASE, self.step, self._steps, metrics)
            self._look_at_what_is_kept_apart()
        self._stepper.end()
        if self._kept is not None:
            self._backbone.load_adapter_state(self._best_state, "reward")

    def _look_at_what_is_kept_apart(self) -> None:
        """After a pass: whether it is the best so far."""
        if self._kept is not None:
            lost = self._kept.log_loss()
            self._since = self._since + 1 if lost >= self._best else 0
            if lost < self._best:
                self._best, self._best_state = lost, self._backbone.adapter_state("reward")

    def _state(self) -> dict[str, Any]:
        return {"since": self._since, "best": self._best, "best_state": self._best_state}


def _kept_apart(judgements: Sequence[Pair | Label | Scored], rng: Random) -> frozenset[TokenIds]:
    """Prompts that only measure: all that people said about one is either learned from or not."""
    prompts = list(dict.fromkeys(one.prompt_token_ids for one in judgements))
    count = len(prompts) // KEPT_APART
    return frozenset(rng.sample(prompts, count)) if count >= FEWEST_KEPT else frozenset()
