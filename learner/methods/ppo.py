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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import torch
from torch import Tensor

from learner import parallel
from learner.backbone import Backbone
from learner.batch import WAITING, Example, Progress, Sequences, TokenIds, collate, shuffled_batches
from learner.importance import token_importance
from learner.losses import sft_loss
from learner.methods.optimizer import Stepper, reply_tokens
from learner.methods.rollouts import Judge
from learner.micro_batches import MicroBatches
from learner.policy_losses import (
    AdaptiveKl,
    RunningMoments,
    entropy,
    gae,
    grpo_advantages,
    kl_estimates,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_advantages,
    rloo_advantages,
    token_rewards,
    whiten,
)
from learner.sampler import InProcessSampler, Sampler
from learner.sampling import Reply, with_room
from learner.tensors import masked_mean, masked_sum, token_log_probs
from service.settings import PpoSettings

PHASE = "ppo"
VALUE_WARMUP = 2
"""Iterations in which the value function alone learns: a policy that follows a random one forgets first."""
SCORED_AT_ONCE = 64


@dataclass(frozen=True)
class PpoResult:
    steps: int
    replies: int  # sampled and learned from
    too_long: int  # prompts left out, because a reply to them does not fit the model
    skipped_steps: int
    left_out: int  # prompts that were asked and are no more, because engines went away over them
    metrics: dict[str, float] = field(default_factory=dict)  # of the last iteration


@dataclass(frozen=True)
class Experience:
    """N replies of an iteration, as the policy that sampled them sees them. All (N, T) but for `batch`."""

    batch: Sequences
    log_probs: Tensor
    values: Tensor  # of the state that each token was chosen in; 0 without a value function
    advantages: Tensor
    returns: Tensor
    importance: Tensor | None = None  # of each token, where an engine sampled it

    def tokens(self, rows: Sequence[int]) -> int:
        """Of these replies, that are learned from."""
        return int(self.mask[list(rows)].sum())

    @property
    def mask(self) -> Tensor:
        """Bool: the replies' tokens."""
        return self.batch.reply_mask


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
) -> PpoResult:
    """Train the policy in place. `pretraining`: replies of the base that are to stay likely. Same seed, same result.

    `sampler`: where the policy's replies come from; None: from the backbone. Raises TrainingFailed when the loss stays
    without a finite value, and what the sampler raises.
    """
    sampler = sampler or InProcessSampler(backbone)
    asked, too_long = with_room(sampler, prompts, settings.max_new_tokens)
    if not asked:
        return PpoResult(0, 0, too_long, 0, 0)
    course = _Course(backbone, judge, settings, seed, pretraining, sampler)
    draws = Random(seed)
    for iteration in range(settings.iterations):
        chosen = draws.sample(asked, min(settings.prompts, len(asked)))
        course.iterate(iteration, chosen, progress)
    return PpoResult(course.step, course.replies, too_long, course.skipped, sampler.left_out, course.measured)


class _Course:
    """The iterations of one training, and what they hand on to each other."""

    def __init__(
        self, backbone: Backbone, judge: Judge, settings: PpoSettings, seed: int, pretraining: Sequence[Example],
        sampler: Sampler,
    ) -> None:  # fmt: skip
        self._backbone, self._judge, self._settings, self._seed = backbone, judge, settings, seed
        self._sampler = sampler
        self._pretraining, self._rng = pretraining, Random(seed + 1)
        self._scoring = MicroBatches("sampled replies")
        self._stepper = Stepper(backbone.trainable(), settings.learning_rate, warmup=4)
        self._value_stepper: Stepper | None = None
        if settings.advantages == "gae":
            backbone.add_head("value", seed=seed)
            self._value_stepper = Stepper(backbone.trainable("value"), settings.value_learning_rate, warmup=4)
        self._moments, self._returns = RunningMoments(), RunningMoments()
        self._coefficient = settings.kl_coefficient
        self._controller = (
            None
            if settings.target_kl is None
            else AdaptiveKl(settings.kl_coefficient, settings.target_kl, settings.kl_horizon)
        )
        per_iteration = -(-settings.prompts * settings.replies // settings.minibatch)
        self._steps = settings.iterations * settings.epochs * per_iteration
        self.step = self.replies = 0
        self.measured: dict[str, float] = {}

    @property
    def skipped(self) -> int:
        """Steps without a finite loss or gradient, of the policy and of the value function."""
        return self._stepper.skipped + (self._value_stepper.skipped if self._value_stepper else 0)

    def iterate(self, iteration: int, prompts: Sequence[TokenIds], progress: Progress) -> None:
        """Sample, grade, and learn from it."""
        settings = self._settings
        progress(PHASE, self.step, self._steps, {})
        sampled = self._sampler.sample(
            prompts, per_prompt=settings.replies, max_new_tokens=settings.max_new_tokens,
            seed=self._seed + 1000 * iteration,
            tell=lambda waits: progress(WAITING if waits else PHASE, self.step, self._steps, {}),
        )  # fmt: skip
        experience = self._experience(prompts, sampled)
        self.replies += len(experience.mask)
        self._learn(experience, self._value_stepper is not None and iteration < VALUE_WARMUP, progress)
        if self._controller is not None:
            self._coefficient = self._controller.update(self.measured["kl"], len(experience.mask))

    def _learn(self, experience: Experience, values_alone: bool, progress: Progress) -> None:
        """Go over the replies until the policy has moved far enough from the one that sampled them."""
        for _ in range(self._settings.epochs):
            for rows in shuffled_batches(len(experience.mask), self._settings.minibatch, self._rng):
                metrics = {} if self._value_stepper is None else self._learn_values(experience, rows)
                if not values_alone:
                    metrics |= self._learn_policy(experience, rows)
                self.step += 1
                progress(PHASE, self.step, self._steps, self.measured | metrics)
                if metrics.get("step_kl", 0.0) > self._settings.stop_kl:
                    return

    @torch.no_grad()
    def _experience(self, prompts: Sequence[TokenIds], sampled: Sequence[Sequence[Reply]]) -> Experience:
        """Everything about these replies that stays as it is while the policy learns from them."""
        settings, replies = self._settings, [reply for row in sampled for reply in row]
        examples = [(prompts[reply.prompt], reply.token_ids) for reply in replies]
        batch = collate(examples, self._backbone.pad_id).to(self._backbone.device)
        mask = batch.reply_mask
        log_probs = self._in_parts(batch, lambda part: self._backbone.log_probs(part))
        anchor = self._in_parts(batch, lambda part: self._backbone.log_probs(part, "anchor"))
        importance, of_engine = token_importance(replies, log_probs, mask, settings.importance_cap)
        ended = torch.tensor([reply.ended for reply in replies], device=mask.device)
        scores = self._judge.score(examples).to(mask.device)
        rewards = token_rewards(
            self._normalised(scores), log_probs, anchor, mask, self._coefficient, ended=ended,
            missing_eos_penalty=settings.missing_eos_penalty, clip=settings.clip_rewards,
        )  # fmt: skip
        values = returns = torch.zeros_like(log_probs)
        if settings.advantages == "gae":
            values = self._in_parts(batch, lambda part: self._backbone.values(part))
            advantages, returns = gae(rewards, values, mask, gamma=settings.gamma, lam=settings.lam)
        else:
            advantages = self._of_whole_replies(masked_sum(rewards, mask, 1)).unsqueeze(1) * mask
        if settings.whiten_advantages and settings.advantages in ("gae", "reinforce"):
            advantages = whiten(advantages, mask)
        kl = masked_sum(kl_estimates(log_probs, anchor)[0], mask, 1)
        self.measured = {
            "reward": scores.mean().item(),
            "kl": kl.mean().item(),
            "kl_per_token": (kl.sum() / mask.sum()).item(),
            "kl_coefficient": self._coefficient,
            "length": mask.sum(1).float().mean().item(),
            "ended": ended.float().mean().item(),
            **of_engine,
        }
        if self._sampler.left_out:
            self.measured["left_out"] = self._sampler.left_out
        return Experience(batch, log_probs, values, advantages, returns, importance)

    def _normalised(self, scores: Tensor) -> Tensor:
        """Less the running mean, in running standard deviations."""
        if not self._settings.normalise_rewards:
            return scores
        self._moments.update(scores)
        return (scores - self._moments.mean) / max(self._moments.std, 1e-6)

    def _of_whole_replies(self, rewards: Tensor) -> Tensor:
        """One advantage for each of N replies, whose prompts follow each other: (N,) → (N,)."""
        of_prompts = rewards.reshape(-1, self._settings.replies)
        match self._settings.advantages:
            case "rloo":
                return rloo_advantages(of_prompts).flatten()
            case "grpo":
                return grpo_advantages(of_prompts).flatten()
        baseline = self._returns.mean if self._returns.count else rewards.mean()
        self._returns.update(rewards)  # afterwards: a reply is no part of what it is compared with
        return reinforce_advantages(rewards, baseline)

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
        metrics = self._stepper.add("replies", rows, loss, weight=experience.tokens)
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
            entropy=entropies, entropy_coefficient=settings.entropy_coefficient,
            importance=None if experience.importance is None else experience.importance[rows],
        )  # fmt: skip
        moved = kl_estimates(experience.log_probs[rows], log_probs.detach())[2]
        return loss, metrics | {"step_kl": masked_mean(moved, mask).item()}

    def _log_probs(self, part: Sequences) -> tuple[Tensor, Tensor | None]:
        """Of the replies' tokens, and how undecided the policy was at each where that is rewarded: (B, T) both."""
        if not self._settings.entropy_coefficient:
            return self._backbone.log_probs(part), None
        logits, token_ids, _ = self._backbone.logits(part)
        of_tokens = (token_log_probs(logits, token_ids), entropy(logits))
        nothing = torch.zeros(part.reply_mask.shape, device=logits.device)
        log_probs, entropies = (nothing.masked_scatter(part.reply_mask, values) for values in of_tokens)
        return log_probs, entropies

    def _pretraining_loss(self, some: Sequence[Example]) -> tuple[Tensor, dict[str, float]]:
        batch = collate(some, self._backbone.pad_id)
        loss, metrics = sft_loss(self._backbone.log_probs(batch), batch.reply_mask.to(self._backbone.device))
        return loss, {f"pretraining_{name}": value for name, value in metrics.items()}

    def _rate(self) -> float:
        """Share of the learning rate: falls to a tenth."""
        return 1 - 0.9 * self.step / self._steps

    def _in_parts(self, batch: Sequences, compute: Callable[[Sequences], Tensor]) -> Tensor:
        def of_some(rows: Sequence[int]) -> Tensor:
            parts = [rows[start : start + SCORED_AT_ONCE] for start in range(0, len(rows), SCORED_AT_ONCE)]
            each = [self._scoring.each(part, lambda some: compute(batch.rows(some))) for part in parts]
            return torch.cat([found for of_part in each for _, found in of_part])

        return parallel.rows(range(len(batch.token_ids)), of_some).to(self._backbone.device)
