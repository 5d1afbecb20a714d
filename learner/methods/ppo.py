"""Move the policy towards what a reward asks for, and no further from the anchor than that is worth.

PPO as InstructGPT does it (arXiv 2203.02155, appendix C; Schulman et al., arXiv 1707.06347). An iteration samples
replies from the policy; grades each at its last token; takes off β times the KL to the anchor at every token; turns
that into advantages, by generalised advantage estimation with a value function that is a role of the same backbone;
and goes over the replies a few times with the clipped loss, until the policy is as far from the one that sampled as it
may be. Beside it the base's own replies stay likely (PPO-ptx). The optimum is π ∝ anchor · exp(reward / β).

REINFORCE, RLOO (arXiv 2402.14740) and GRPO (arXiv 2402.03300) are the same loop without a value function: all tokens
of a reply have one advantage, its reward compared with a running mean, or with that of other replies to its prompt. The
KL stays in the reward for all four, where GRPO's authors have it in the loss.

    result = ppo.train(backbone, judge, prompts, settings.ppo, progress, seed=0)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import WAITING, Example, Progress, Sequences, TokenIds, collate
from learner.losses import sft_loss
from learner.methods.experience import Appraiser, Experience, grouped_batches
from learner.methods.optimizer import Stepper, reply_tokens
from learner.methods.rollouts import Judge
from learner.policy_losses import kl_estimates, ppo_policy_loss, ppo_value_loss
from learner.sampler import InProcessSampler, Sampler
from learner.sampling import with_room
from learner.stage_checkpoint import StageCheckpoint, set_random
from learner.tensors import masked_mean
from service.errors import BadInput
from service.settings import PpoSettings

log = logging.getLogger("hone.learner")

PHASE = "ppo"


@dataclass(frozen=True)
class PpoResult:
    steps: int
    replies: int  # sampled and learned from
    too_long: int  # prompts left out, because a reply to them does not fit the model
    skipped_steps: int
    left_out: int  # prompts that were asked and are no more, because engines went away over them
    ungraded: int  # replies beside these that were sampled and have no finite reward
    metrics: dict[str, float] = field(default_factory=dict)  # of the last iteration


def train(
    backbone: Backbone,
    judge: Judge,
    prompts: Sequence[TokenIds],
    settings: PpoSettings,
    progress: Progress,
    *,
    seed: int = 0,
    pretraining: Sequence[Example] = (),
    sampler: Sampler | None = None,
    checkpoint: StageCheckpoint | None = None,
) -> PpoResult:
    """Train the policy in place. `pretraining`: replies of the base that are to stay likely. Same seed, same result.

    `sampler`: where the policy's replies come from; None: from the backbone. `checkpoint`: where it is kept how far the
    training is, and what it goes on from; the result is that of one unbroken training. Raises TrainingFailed when the
    loss stays without a finite value, what `rollouts.grade` raises, and what the sampler raises; BadInput for settings
    by which nothing is learned.
    """
    if settings.unsuitable:
        raise BadInput(f"ppo can't learn by these settings: {settings.unsuitable}.")
    sampler = sampler or InProcessSampler(backbone)
    asked, too_long = with_room(sampler, prompts, settings.max_new_tokens)
    if not asked:
        return PpoResult(0, 0, too_long, 0, 0, 0)
    settings = settings.model_copy(update={"prompts": min(settings.prompts, len(asked))})
    course = _Course(backbone, judge, settings, seed, pretraining, sampler)
    draws, begin = Random(seed), 0
    checkpoint = checkpoint or StageCheckpoint()
    if kept := checkpoint.part(PHASE):
        course.load_state(kept["course"])
        set_random(draws, kept["draws"])
        begin = kept["iterations"]
        log.info("It goes on after iteration %d of %d.", begin, settings.iterations)
    for done in range(begin + 1, settings.iterations + 1):
        chosen = draws.sample(asked, settings.prompts)
        course.iterate(done - 1, chosen, progress)
        state = partial(_kept, course, draws, done)
        checkpoint.keep(PHASE, state, now=done == settings.iterations)
    course.end()
    return PpoResult(
        course.step, course.replies, too_long, course.skipped, sampler.left_out, course.ungraded, course.measured
    )


def _kept(course: _Course, draws: Random, iterations: int) -> dict[str, Any]:
    return {"course": course.state(), "draws": draws.getstate(), "iterations": iterations}


class _Course:
    """The iterations of one training, and what they hand on to each other."""

    def __init__(
        self, backbone: Backbone, judge: Judge, settings: PpoSettings, seed: int, pretraining: Sequence[Example],
        sampler: Sampler,
    ) -> None:  # fmt: skip
        self._backbone, self._settings, self._seed, self._sampler = backbone, settings, seed, sampler
        self._pretraining, self._rng = pretraining, Random(seed + 1)
        self._appraiser = Appraiser(backbone, judge, settings)
        small = backbone.in_4_bits
        self._stepper = Stepper(backbone.trainable(), settings.learning_rate, warmup=4, in_4_bits=small)
        self._value_stepper: Stepper | None = None
        if settings.advantages == "gae":
            backbone.add_head("value", seed=seed)
            values, rate = backbone.trainable("value"), settings.value_learning_rate
            self._value_stepper = Stepper(values, rate, warmup=4, in_4_bits=small)
        groups = [settings.replies] * settings.prompts
        per_epoch = len(list(grouped_batches(groups, settings.minibatch, Random(0))))
        self._steps = settings.iterations * settings.epochs * per_epoch
        self._phase = PHASE if settings.advantages == "gae" else settings.advantages  # the method's own name
        self.step = self.replies = 0
        self._first_reward = 0.0  # mean of the first iteration's replies

    @property
    def measured(self) -> dict[str, float]:
        """Of the replies of the latest iteration."""
        return self._appraiser.measured

    @property
    def ungraded(self) -> int:
        """Replies so far without a finite reward."""
        return self._appraiser.ungraded

    @property
    def skipped(self) -> int:
        """Steps without a finite loss or gradient, of the policy and of the value function."""
        return self._stepper.skipped + (self._value_stepper.skipped if self._value_stepper else 0)

    def end(self) -> None:
        """Raises TrainingFailed as `Stepper.end`, for the policy and for the value function."""
        self._stepper.end()
        if self._value_stepper is not None:
            self._value_stepper.end()

    def iterate(self, iteration: int, prompts: Sequence[TokenIds], progress: Progress) -> None:
        """Sample, grade, and learn from it."""
        settings = self._settings
        progress(self._phase, self.step, self._steps, {})
        sampled = self._sampler.sample(
            prompts, per_prompt=settings.replies, max_new_tokens=settings.max_new_tokens,
            seed=self._seed + 1000 * iteration,
            tell=lambda waits: progress(WAITING if waits else self._phase, self.step, self._steps, {}),
        )  # fmt: skip
        experience = self._appraiser.appraise(prompts, sampled)
        if iteration == 0:
            self._first_reward = self.measured["reward"]
        self.measured["reward_gained"] = self.measured["reward"] - self._first_reward
        if self._sampler.left_out:
            self.measured["left_out"] = self._sampler.left_out
        self.replies += len(experience.mask)
        self._learn(experience, self._value_stepper is not None and iteration < settings.value_warmup, progress)
        self._appraiser.adapt(len(experience.mask))

    def state(self) -> dict[str, Any]:
        """All that decides later iterations; between two of them."""
        values = self._value_stepper
        return {
            "policy": self._backbone.adapter_state(),
            "stepper": self._stepper.state(),
            "value": self._backbone.adapter_state("value") if values else {},
            "value_stepper": values.state() if values else {},
            "appraiser": self._appraiser.state(),
            "rng": self._rng.getstate(),
            "step": self.step,
            "replies": self.replies,
            "first_reward": self._first_reward,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._backbone.load_adapter_state(state["policy"])
        self._stepper.load_state(state["stepper"])
        if self._value_stepper is not None:
            self._backbone.load_adapter_state(state["value"], "value")
            self._value_stepper.load_state(state["value_stepper"])
        self._appraiser.load_state(state["appraiser"])
        set_random(self._rng, state["rng"])
        self.step, self.replies, self._first_reward = state["step"], state["replies"], state["first_reward"]

    def _learn(self, experience: Experience, values_alone: bool, progress: Progress) -> None:
        """Go over the replies until the policy has moved far enough from the one that sampled them."""
        for _ in range(self._settings.epochs):
            for rows in grouped_batches(experience.groups, self._settings.minibatch, self._rng):
                metrics = {} if self._value_stepper is None else self._learn_values(experience, rows)
                if not values_alone:
                    metrics |= self._learn_policy(experience, rows)
                self.step += 1
                progress(self._phase, self.step, self._steps, self.measured | metrics)
                if metrics.get("step_kl", 0.0) > self._settings.stop_kl:
                    return

    def _learn_values(self, experience: Experience, rows: Sequence[int]) -> dict[str, float]:
        assert self._value_stepper is not None
        loss = partial(self._value_loss, experience)
        metrics = self._value_stepper.add("values of replies", rows, loss, weight=experience.tokens)
        self._value_stepper.update(self._rate())
        return metrics

    def _value_loss(self, experience: Experience, rows: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        rows = list(rows)
        return ppo_value_loss(
            self._backbone.values(experience.batch.rows(rows)), experience.values[rows], experience.returns[rows],
            experience.mask[rows], clip=self._settings.value_clip,
        )  # fmt: skip

    def _learn_policy(self, experience: Experience, rows: Sequence[int]) -> dict[str, float]:
        loss = partial(self._policy_loss, experience)
        weight = experience.replies if self._settings.per_sequence else experience.tokens
        metrics = self._stepper.add("replies", rows, loss, weight=weight)
        if self._settings.pretraining_coefficient and self._pretraining:
            some = self._rng.sample(self._pretraining, min(len(rows), len(self._pretraining)))
            factor = self._settings.pretraining_coefficient
            metrics |= self._stepper.add(
                "the base's replies", some, self._pretraining_loss, weight=reply_tokens, factor=factor
            )  # fmt: skip
        return metrics | self._stepper.update(self._rate())

    def _policy_loss(self, experience: Experience, rows: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        rows = list(rows)
        settings, mask = self._settings, experience.mask[rows]
        log_probs, entropies = self._log_probs(experience.batch.rows(rows))
        loss, metrics = ppo_policy_loss(
            log_probs, experience.log_probs[rows], experience.advantages[rows], mask, clip=settings.clip,
            entropy=entropies, entropy_coefficient=settings.entropy_coefficient, per_sequence=settings.per_sequence,
            importance=None if experience.importance is None else experience.importance[rows],
        )  # fmt: skip
        moved = kl_estimates(experience.log_probs[rows], log_probs.detach())[2]
        return loss, metrics | {"step_kl": masked_mean(moved, mask).item()}

    def _log_probs(self, part: Sequences) -> tuple[Tensor, Tensor | None]:
        """Of the replies' tokens, and how undecided the policy was at each where that is rewarded: (B, T) both."""
        if not self._settings.entropy_coefficient:
            return self._backbone.log_probs(part), None
        of_tokens = self._backbone.predictions(part).log_probs_and_entropies()
        nothing = torch.zeros(part.reply_mask.shape, device=self._backbone.device)
        log_probs, entropies = (nothing.masked_scatter(part.reply_mask, values) for values in of_tokens)
        return log_probs, entropies

    def _pretraining_loss(self, some: Sequence[Example]) -> tuple[Tensor, dict[str, float]]:
        batch = collate(some, self._backbone.pad_id)
        loss, metrics = sft_loss(self._backbone.log_probs(batch), batch.reply_mask.to(self._backbone.device))
        return loss, {f"pretraining_{name}": value for name, value in metrics.items()}

    def _rate(self) -> float:
        """Share of the learning rate: falls to a tenth."""
        return 1 - 0.9 * self.step / self._steps
