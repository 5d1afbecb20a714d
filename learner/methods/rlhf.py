"""Learn what people like in the classic way (InstructGPT, arXiv 2203.02155): a reward model of their judgements, then
reinforcement learning on it (`ppo`), or fine-tuning on the best of several replies (`raft`).

A reward model of a hundred judgements has holes, and what follows a reward finds them. So what it says, less what its
heads' disagreement costs (`reward_model.Cautious`), is put into standard deviations of the base's own replies; a reply
gains by holding the words on which the base's replies agree, so that a taste costs no facts; an empty one is worse than
every other; and in the end the update is held back until sampled replies are inside the limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Example, Label, Pair, Progress, Scored, TokenIds
from learner.methods import ppo, raft, reward
from learner.methods.answers import Answer, Answers, answers, share_agreed
from learner.methods.reward_model import Cautious, RewardFit, RewardModel
from learner.methods.rollouts import BROKEN, CONSENSUS, Judge, figures_of, roll_out
from learner.methods.strength import beginning, hold_inside_limits
from learner.sampler import Sampler
from learner.sampling import Window, affordable, sample, with_room
from learner.stage_checkpoint import StageCheckpoint
from service.errors import TrainingFailed
from service.settings import LearnerSettings, PpoSettings, RaftSettings

Optimiser = PpoSettings | RaftSettings
"""How the policy follows the reward, by the settings of the method."""

MEASURED_PROMPTS, MEASURED_REPLIES = 32, 4
"""Of the base, by which rewards are scaled."""
KEPT_PROMPTS = 128
"""Whose replies by the base are to stay likely."""
CHECKED_PROMPTS = 48
REACHED = ("reward", "reward_gained", "reward_disagreement")
"""Of the last replies that were sampled, among the policy's metrics."""
BASIS = "basis"
"""In a checkpoint: what stays as it is while the policy learns."""


@dataclass(frozen=True)
class RlhfResult:
    reward: RewardFit
    policy: ppo.PpoResult | raft.RaftResult
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Of both."""
        return self.reward.steps + self.policy.steps

    @property
    def too_long(self) -> int:
        """Judgements that the reward was not fitted to."""
        return self.reward.too_long

    @property
    def skipped_steps(self) -> int:
        """Of both."""
        return self.reward.skipped_steps + self.policy.skipped_steps


def prompts_to_learn_on(
    backbone: Backbone,
    window: Window,
    judged: Sequence[Pair | Label | Scored],
    prompts: Sequence[TokenIds],
    how: Optimiser,
) -> tuple[list[TokenIds], int]:
    """Each once: those that people ask, and some of those whose replies they judged; and how many more there are that
    don't leave half of the model's context for a reply.

    `window`: of what samples. Raises TrainingFailed where none leaves room for a reply in it.
    """
    of_judged = dict.fromkeys(one.prompt_token_ids for one in judged)
    asked = [*prompts, *affordable(list(of_judged), how.iterations * how.prompts)]
    asked, too_long = with_room(backbone, asked, backbone.max_length)
    fitting, _ = with_room(window, asked, how.max_new_tokens)
    if not fitting:
        is_short = window.max_length < backbone.max_length
        raise TrainingFailed(
            f"No prompt that people asked leaves room for a reply in a context of {window.max_length} tokens.",
            "Give the engine a longer one, and raise engine.max_model_len." if is_short else "",
        )
    return asked, too_long


class Sensible:
    """A reward with what a taste must not cost, as the module's docstring says. `nat`: what one is worth, in standard
    deviations of the reward among the base's replies to one prompt. `measured`: the mean of these rewards and that
    deviation, where they are known already."""

    def __init__(
        self, backbone: Backbone, judge: Judge, prompts: Sequence[TokenIds], right: Answers, nat: float, seed: int,
        measured: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        self._backbone, self._judge, self._right, self._nat = backbone, judge, right, nat
        if measured is None:
            grades = roll_out(backbone, judge, prompts[:MEASURED_PROMPTS], MEASURED_REPLIES, "base", seed).grades
            spread = grades.std(1).nanmean().clamp(min=1e-3)  # a grade that isn't finite costs its own group
            measured = float(grades[grades.isfinite()].mean()), float(spread)
        self.measured = measured

    @property
    def figures(self) -> dict[str, float]:
        """What the judge says beside its latest grades."""
        return figures_of(self._judge)

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        """(len(examples),)"""
        texts = self._backbone.decode([reply for _, reply in examples])
        agreed = share_agreed(texts, [prompt for prompt, _ in examples], self._right)
        mean, spread = self.measured
        scores = (self._judge.score(examples) - mean) / spread
        scores = scores + self._nat * CONSENSUS * (agreed - 1)
        empty = torch.tensor([not text.strip() for text in texts])
        seen = scores[~empty & scores.isfinite()]
        worst = seen.min() if len(seen) else torch.zeros(())
        return torch.where(empty, worst - self._nat * BROKEN, scores)


def train(
    backbone: Backbone,
    pairs: Sequence[Pair],
    labels: Sequence[Label],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    how: Optimiser,
    progress: Progress,
    scored: Sequence[Scored] = (),
    sampler: Sampler | None = None,
    checkpoint: StageCheckpoint | None = None,
    alone_weight: float = 1.0,
) -> RlhfResult:
    """Train the policy in place, by what people said of pairs and of single replies, on `prompts` that people ask.

    `sampler`: where the replies come from that the policy learns from; None: from the backbone. `checkpoint`: where it
    is kept how far the training is, and what it goes on from. `alone_weight`: as in `reward.fit`. Raises TrainingFailed
    when there is nothing to fit a reward to, when no prompt leaves room for a reply, or when the loss stays without a
    finite value, and what the sampler raises.
    """
    said: list[Pair | Label | Scored] = [*pairs, *labels, *scored]
    asked, too_long = prompts_to_learn_on(backbone, sampler or backbone, said, prompts, how)
    checkpoint = checkpoint or StageCheckpoint()
    basis, seed = checkpoint.part(BASIS), settings.seed
    if basis:
        model = RewardModel.restored(backbone, basis["reward"])
    else:
        model = reward.fit(backbone, pairs, labels, settings, progress, scored, checkpoint, alone_weight)
    rng, reserved = Random(seed), Cautious(model, settings.reward_disagreement)
    rng.shuffle(asked)
    if not basis:
        basis = {"reward": model.state()} | _basis(backbone, reserved, asked, how, seed)
        checkpoint.hold(reward.PHASE, {})  # how far the fit was takes no more room
        checkpoint.keep(BASIS, lambda: basis, now=True)
    right = {tuple(prompt): Answer.from_parts(*parts) for prompt, *parts in basis["right"]}
    mean, spread = basis["measured"]
    judge = Sensible(backbone, reserved, asked, right, how.kl_coefficient, seed + 98, (mean, spread))
    result: ppo.PpoResult | raft.RaftResult
    if isinstance(how, RaftSettings):
        result = raft.train(backbone, judge, asked, how, progress, seed=seed, sampler=sampler, checkpoint=checkpoint)
    else:
        pretraining = [(tuple(prompt), tuple(reply)) for prompt, reply in basis["pretraining"]]
        result = ppo.train(
            backbone, judge, asked, how, progress, seed=seed, pretraining=pretraining, sampler=sampler,
            checkpoint=checkpoint,
        )  # fmt: skip
    result = replace(result, too_long=result.too_long + too_long)
    checked = rng.sample(asked, min(CHECKED_PROMPTS, len(asked)))
    scale, measured = hold_inside_limits(backbone, model, checked, settings, right, basis.get("start"))
    return RlhfResult(model.fit, result, {"scale": scale} | measured | _figures(model.fit, result))


def _figures(fit: RewardFit, policy: ppo.PpoResult | raft.RaftResult) -> dict[str, float]:
    """How well the reward foretells judgements, as far as that is known, what it came to, and what was left out."""
    of_fit = {
        "reward_accuracy": fit.accuracy, "reward_label_accuracy": fit.label_accuracy,
        "reward_log_likelihood": fit.log_likelihood, "reward_score_correlation": fit.score_correlation,
        "reward_temperature": fit.temperature, "reward_kept": fit.kept,
    }  # fmt: skip
    counts = {"prompts_too_long": policy.too_long, "left_out": policy.left_out, "ungraded": policy.ungraded}
    reached = {name: policy.metrics[name] for name in REACHED if name in policy.metrics}
    return {name: value for name, value in of_fit.items() if value is not None} | reached | counts


def _basis(backbone: Backbone, reserved: Judge, asked: Sequence[TokenIds], how: Optimiser, seed: int) -> dict[str, Any]:
    """What is found out of the base before the policy moves: what `StageCheckpoint` keeps beside the reward model."""
    right = answers(backbone, asked, seed + 99)
    judge = Sensible(backbone, reserved, asked, right, how.kl_coefficient, seed + 98)
    pretraining = list[Example]()
    if isinstance(how, PpoSettings):
        kept = asked[:KEPT_PROMPTS]
        by_base = sample(backbone, kept, role="base", seed=seed + 97, max_new_tokens=how.max_new_tokens)
        pretraining = [(kept[reply.prompt], reply.token_ids) for row in by_base for reply in row]
    return {
        "start": beginning(backbone),
        "right": [(prompt, *answer.parts) for prompt, answer in right.items()],
        "measured": judge.measured,
        "pretraining": pretraining,
    }
