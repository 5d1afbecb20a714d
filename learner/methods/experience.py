"""What sampled replies are worth to the policy that said them: rewards, less what KL costs, turned into advantages.

The judge grades a reply at its last token; every token costs β times its KL to the anchor; and each token's advantage
is what that comes to beyond what was to be expected: by a value function (GAE), or compared with other replies. What
goes on from one iteration to the next is here, too: running moments, and a β that follows a target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Sequences, TokenIds, collate
from learner.importance import token_importance
from learner.methods.rollouts import Judge, figures_of, grade
from learner.micro_batches import MicroBatches, set_sizes, sizes
from learner.policy_losses import (
    AdaptiveKl,
    RunningMoments,
    gae,
    grpo_advantages,
    in_groups,
    kl_estimates,
    reinforce_advantages,
    rloo_advantages,
    token_rewards,
    whiten,
)
from learner.sampling import Reply
from learner.tensors import masked_sum
from service.settings import PpoSettings

SCORED_AT_ONCE = 64
SCORED = "sampled replies"


@dataclass(frozen=True)
class Experience:
    """N replies of an iteration, as the policy that sampled them sees them. Tensors are (N, T)."""

    batch: Sequences
    groups: tuple[int, ...]  # how many in a row answer one prompt; their sum is N
    log_probs: Tensor
    values: Tensor  # of the state that each token was chosen in; 0 without a value function
    advantages: Tensor
    returns: Tensor
    importance: Tensor | None = None  # of each token, where an engine sampled it

    def tokens(self, rows: Sequence[int]) -> int:
        """Of these replies, that are learned from."""
        return int(self.mask[list(rows)].sum())

    def replies(self, rows: Sequence[int]) -> int:
        """Of these, that have tokens to learn from."""
        return int(self.mask[list(rows)].any(1).sum())

    @property
    def mask(self) -> Tensor:
        """Bool: the replies' tokens."""
        return self.batch.reply_mask


def grouped_batches(groups: Sequence[int], size: int, rng: Random) -> Iterator[list[int]]:
    """Places of replies in random order, at most `size` at a time; `groups`: how many in a row answer one prompt.

    These stay together, so that their prompt is computed once, where `size` is as much as that; else they are split.
    """
    starts = accumulate(groups, initial=0)
    order = [list(range(start, start + count)) for start, count in zip(starts, groups, strict=False)]
    rng.shuffle(order)
    batch = list[int]()
    for group in order:
        if len(group) > size:
            rng.shuffle(group)
        for start in range(0, len(group), size):
            part = group[start : start + size]
            if len(batch) + len(part) > size:
                yield batch
                batch = []
            batch = batch + part
    if batch:
        yield batch


class Appraiser:
    """See the module's docstring. `measured`: what the latest iteration's replies are like, by name. `ungraded`: how
    many so far had no finite reward, and were left out."""

    def __init__(self, backbone: Backbone, judge: Judge, settings: PpoSettings) -> None:
        self._backbone, self._judge, self._settings = backbone, judge, settings
        self._fitting = {**backbone.fitting, SCORED: MicroBatches(SCORED)}
        self._moments, self._returns = RunningMoments(), RunningMoments()
        self._coefficient = settings.kl_coefficient
        self.measured: dict[str, float] = {}
        self.ungraded = 0

    @torch.no_grad()
    def appraise(self, prompts: Sequence[TokenIds], sampled: Sequence[Sequence[Reply]]) -> Experience:
        """Everything about these replies that stays as it is while the policy learns from them.

        Without those whose reward isn't finite, and those that no other one to their prompt is left to be compared with
        where that is needed. Raises what `rollouts.grade` does.
        """
        settings = self._settings
        replies, scores, groups = self._graded(prompts, sampled)
        examples = [(prompts[reply.prompt], reply.token_ids) for reply in replies]
        batch = collate(examples, self._backbone.pad_id).to(self._backbone.device)
        mask = batch.reply_mask
        log_probs = self._in_parts(batch, lambda part: self._backbone.log_probs(part))
        anchor = self._in_parts(batch, lambda part: self._backbone.log_probs(part, "anchor"))
        importance, of_engine = token_importance(replies, log_probs, mask, settings.importance_cap)
        ended = torch.tensor([reply.ended for reply in replies], device=mask.device)
        rewards = token_rewards(
            self._normalised(scores), log_probs, anchor, mask, self._coefficient, ended=ended,
            missing_eos_penalty=settings.missing_eos_penalty, clip=settings.clip_rewards,
            kl_estimator=settings.kl_estimator,
        )  # fmt: skip
        values = returns = torch.zeros_like(log_probs)
        if settings.advantages == "gae":
            values = self._in_parts(batch, lambda part: self._backbone.values(part))
            if settings.whiten_rewards:
                rewards = whiten(rewards, mask, shift_mean=False)
            advantages, returns = gae(rewards, values, mask, gamma=settings.gamma, lam=settings.lam)
        else:
            advantages = self._of_whole_replies(masked_sum(rewards, mask, 1), groups).unsqueeze(1) * mask
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
            **figures_of(self._judge),
        }
        if self.ungraded:
            self.measured["ungraded"] = self.ungraded
        return Experience(batch, groups, log_probs, values, advantages, returns, importance)

    def adapt(self, replies: int) -> None:
        """Have β follow the KL of so many replies, where it has a target."""
        settings = self._settings
        if settings.target_kl is not None:
            controller = AdaptiveKl(self._coefficient, settings.target_kl, settings.kl_horizon)
            self._coefficient = controller.update(self.measured["kl"], replies)

    def state(self) -> dict[str, Any]:
        """All that later iterations depend on; between two of them."""
        return {
            "moments": self._moments.to_json(),
            "returns": self._returns.to_json(),
            "coefficient": self._coefficient,
            "measured": self.measured,
            "ungraded": self.ungraded,
            "fitting": sizes(self._fitting),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._moments = RunningMoments.from_json(state["moments"])
        self._returns = RunningMoments.from_json(state["returns"])
        self._coefficient, self.measured = state["coefficient"], state["measured"]
        self.ungraded = state["ungraded"]
        set_sizes(self._fitting, state["fitting"])

    def _graded(
        self, prompts: Sequence[TokenIds], sampled: Sequence[Sequence[Reply]]
    ) -> tuple[list[Reply], Tensor, tuple[int, ...]]:
        """The replies to learn from, their rewards, and how many in a row answer one prompt."""
        every = [reply for row in sampled for reply in row]
        rewards, graded = grade(self._judge, [(prompts[reply.prompt], reply.token_ids) for reply in every])
        self.ungraded += len(every) - len(graded)
        least = 2 if self._settings.advantages in ("rloo", "grpo") else 1
        groups = Counter(every[place].prompt for place in graded)
        kept = [place for place in graded if groups[every[place].prompt] >= least]
        sizes = Counter(every[place].prompt for place in kept).values()  # in the order in which the prompts come
        return [every[place] for place in kept], rewards.to(self._backbone.device)[kept], tuple(sizes)

    def _normalised(self, scores: Tensor) -> Tensor:
        """Less the running mean, in running standard deviations, where that is wanted."""
        if not self._settings.normalise_rewards:
            return scores
        self._moments.update(scores)
        return (scores - self._moments.mean) / max(self._moments.std, 1e-6)

    def _of_whole_replies(self, rewards: Tensor, groups: Sequence[int]) -> Tensor:
        """One advantage for each of N replies, of which so many in a row answer one prompt: (N,) → (N,)."""
        match self._settings.advantages:
            case "rloo":
                return in_groups(rewards, groups, rloo_advantages)
            case "grpo":
                return in_groups(rewards, groups, partial(grpo_advantages, scale=self._settings.grpo_scale))
        baseline = self._returns.mean if self._returns.count else rewards.mean()
        self._returns.update(rewards)  # afterwards: a reply is no part of what it is compared with
        return reinforce_advantages(rewards, baseline)

    def _in_parts(self, batch: Sequences, compute: Callable[[Sequences], Tensor]) -> Tensor:
        def of_some(rows: Sequence[int]) -> Tensor:
            parts = [rows[start : start + SCORED_AT_ONCE] for start in range(0, len(rows), SCORED_AT_ONCE)]
            each = [self._fitting[SCORED].each(part, lambda some: compute(batch.rows(some))) for part in parts]
            return torch.cat([found for of_part in each for _, found in of_part])

        return parallel.rows(range(len(batch.token_ids)), of_some).to(self._backbone.device)
