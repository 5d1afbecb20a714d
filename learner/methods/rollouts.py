"""Replies sampled in training, with what each is worth: the preference model's grade, turned into target odds.

The target for a prompt's replies is softmax(u), u = grade / τ + consensus + λ · (log-probability under the anchor, less
what fluency asks for): what is best under a KL penalty to where the policy was (τ) and the constraint that replies stay
as likely to the anchor as its own (λ, the constraint's Lagrange multiplier). Without the last two a taste for short
replies is won by stammering: a short reply is a less likely one, token by token. The consensus is the base's: what the
policy's own replies agree on may be a mistake that it is about to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.methods.answers import Answers, share_agreed
from learner.sampling import sample
from service.errors import TrainingFailed

MAX_NEW_TOKENS = 128
CONSENSUS = 9.0  # nats that a reply gains by holding what the base answers to its prompt
MOST_UNGRADED = 0.25
"""Share of the replies of one sampling that may be left out of learning because their reward is NaN or infinite."""
BROKEN = 4.0  # nats that an empty reply stands below the worst other one, or a cut one loses where few are cut


@dataclass(frozen=True)
class Rollouts:
    """k replies to each of P prompts."""

    prompts: tuple[TokenIds, ...]
    replies: tuple[tuple[TokenIds, ...], ...]  # (P, k)
    grades: Tensor  # (P, k) by the preference model
    anchor: Tensor  # (P, k) log-probability under the anchor
    policy: Tensor  # (P, k) log-probability under what sampled them
    sizes: Tensor  # (P, k) tokens
    empty: Tensor  # (P, k) bool: nothing that a person could see
    cut: Tensor  # (P, k) bool: no end within MAX_NEW_TOKENS
    agreed: Tensor  # (P, k) share of the base's answer; 1 where it has none

    @property
    def fluency(self) -> float:
        """Mean log-probability per token under the anchor."""
        return float(self.anchor.sum() / self.sizes.sum().clamp(min=1))

    @property
    def kl_per_token(self) -> float:
        return float((self.policy - self.anchor).sum() / self.sizes.sum().clamp(min=1))

    @property
    def broken(self) -> float:
        """Share of replies that are empty or have no end."""
        return float((self.empty | self.cut).float().mean())

    def utilities(self, temperature: float, strength: float, least: float) -> Tensor:
        """u of the module's docstring, (P, k): λ is `strength`, `least` the log-probability per token to stay above."""
        u = self.grades / temperature + CONSENSUS * self.agreed + strength * (self.anchor - least * self.sizes)
        u = u - BROKEN * (1 - self.cut.float().mean()) * self.cut
        worst = torch.where(self.empty, torch.inf, u).amin(1, keepdim=True)
        return torch.where(self.empty, torch.where(worst.isinf(), 0.0, worst) - BROKEN, u)


class Judge(Protocol):
    """What grades replies: a preference model, a reward model."""

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        """(len(examples),), higher is better; comparable between replies to one prompt."""


def grade(judge: Judge, examples: Sequence[tuple[TokenIds, TokenIds]]) -> tuple[Tensor, list[int]]:
    """Rewards, (len(examples),), and the places of those that are finite: from nothing else can be learned.

    Raises TrainingFailed where more than MOST_UNGRADED of them are not.
    """
    rewards = judge.score(examples)
    graded = [place for place, is_finite in enumerate(rewards.isfinite().tolist()) if is_finite]
    ungraded = len(examples) - len(graded)
    if ungraded > MOST_UNGRADED * len(examples):
        raise TrainingFailed(
            f"The judge ({type(judge).__name__}) gave {ungraded} of {len(examples)} replies no finite reward.",
            f"Up to {MOST_UNGRADED:.0%} of an iteration's replies are left out for that. Mend what computes the "
            "rewards, or the reward model and what it learned from.",
        )
    return rewards, graded


def figures_of(judge: Judge) -> dict[str, float]:
    """What a judge says beside its latest grades, by name, such as how far its members disagree; most say nothing."""
    found: dict[str, float] = getattr(judge, "figures", {})
    return found


def roll_out(
    backbone: Backbone,
    judge: Judge | None,
    prompts: Sequence[TokenIds],
    per_prompt: int,
    role: Role,
    seed: int,
    answers: Answers | None = None,
) -> Rollouts:
    """Sample replies in a role at temperature 1 and grade them.

    Without `answers` all replies hold the answer; without a judge all have the grade 0.
    """
    sampled = sample(backbone, prompts, role=role, per_prompt=per_prompt, seed=seed, max_new_tokens=MAX_NEW_TOKENS)
    flat = [reply for row in sampled for reply in row]
    shape = (len(prompts), per_prompt)
    examples = [(prompts[reply.prompt], reply.token_ids) for reply in flat]
    texts = backbone.decode([reply.token_ids for reply in flat])
    own = torch.tensor([reply.log_prob for reply in flat])
    plain = role == "base" and not backbone.has("anchor")
    return Rollouts(
        prompts=tuple(prompts),
        replies=tuple(tuple(reply.token_ids for reply in row) for row in sampled),
        grades=judge.score(examples).reshape(shape) if judge else torch.zeros(shape),
        anchor=(own if plain else backbone.score(examples, "anchor")).reshape(shape),
        policy=own.reshape(shape),
        sizes=torch.tensor([len(reply.token_ids) for reply in flat]).reshape(shape),
        empty=torch.tensor([not text.strip() for text in texts]).reshape(shape),
        cut=torch.tensor([not reply.ended for reply in flat]).reshape(shape),
        agreed=share_agreed(texts, [prompt for prompt, _ in examples], answers or {}).reshape(shape),
    )


def share_preferred(ours: Tensor, theirs: Tensor) -> float:
    """Chance that one of our replies is graded above one of theirs to the same prompt, ties left out; ½ for none."""
    difference = ours.unsqueeze(2) - theirs.unsqueeze(1)
    won, lost = float((difference > 0).sum()), float((difference < 0).sum())
    return won / (won + lost) if won + lost else 0.5
