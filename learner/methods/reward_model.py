"""How much people like a reply, as log-odds: an adapter on the frozen backbone with several heads. Where the feedback
leaves open which reply is better, the heads disagree. `learner.methods.reward` fits it.

    graded = model.grade([(prompt, reply), …])
    graded.mean, graded.disagreement
    judge = Cautious(model, coefficient)

What follows a reward finds the replies that it is wrong about, and there the heads disagree. So a policy may be given
the mean less a multiple of the disagreement: uncertainty-weighted optimisation (Coste et al., arXiv 2310.02743; they
take off the variance, here it is the standard deviation, which is in the reward's own unit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Example, by_length, collate, tokens_of
from learner.micro_batches import MicroBatches
from learner.reward_losses import ensemble

SCORED_AT_ONCE = 64


@dataclass(frozen=True)
class RewardFit:
    """How well the reward model foretells judgements that it did not learn from (`kept`: of how many prompts)."""

    pairs: int
    labels: int
    too_long: int  # judgements left out, because they do not fit the model
    steps: int
    skipped_steps: int
    kept: int
    accuracy: float | None  # of the decided pairs, then of the labels, that were kept apart
    label_accuracy: float | None
    log_likelihood: float | None  # per pair and label, in nats, calibrated; -log 2 = -0.693 is knowing nothing
    temperature: float  # the raw reward divided by this is the log-odds of being preferred
    members: int  # heads
    scores: int = 0
    score_correlation: float | None = None  # rank correlation of rewards with the scores that were kept apart


@dataclass(frozen=True)
class Graded:
    """Rewards of N replies, as log-odds; comparable between replies to one prompt."""

    mean: Tensor  # (N,) over the heads
    disagreement: Tensor  # (N,) standard deviation over the heads


class RewardModel:
    """The backbone in its role as reward, with what it takes to read its numbers."""

    def __init__(self, backbone: Backbone, fit: RewardFit) -> None:
        self._backbone, self.fit = backbone, fit

    def state(self) -> dict[str, Any]:
        """A copy of all there is of it."""
        return {"weights": self._backbone.adapter_state("reward"), "fit": asdict(self.fit)}

    @classmethod
    def restored(cls, backbone: Backbone, state: Mapping[str, Any]) -> RewardModel:
        """From such a copy, as the reward role of a backbone that has none yet."""
        fit = RewardFit(**state["fit"])
        backbone.add_head("reward", fit.members)
        backbone.load_adapter_state(state["weights"], "reward")
        return cls(backbone, fit)

    def grade(self, examples: Sequence[Example]) -> Graded:
        """Of whole replies, EOS included. Replies without a token have the lowest reward that there is among them."""
        said = torch.tensor([bool(reply) for _, reply in examples])
        raw = torch.zeros(len(examples), self.fit.members)
        raw[said] = score(self._backbone, [example for example in examples if example[1]], self.fit.members)
        if said.any():
            raw[~said] = raw[said].amin(0)
        return Graded(*ensemble((raw / self.fit.temperature).T))

    def score(self, examples: Sequence[Example]) -> Tensor:
        """(len(examples),): the mean rewards."""
        return self.grade(examples).mean


class Cautious:
    """A reward model as a judge that is the more reserved the more its heads disagree: mean - `coefficient` · standard
    deviation, in nats of log-odds. `figures`: `reward_disagreement`, the mean of these deviations over what was graded
    last, whatever the coefficient."""

    def __init__(self, model: RewardModel, coefficient: float) -> None:
        self._model, self._coefficient = model, coefficient
        self.figures: dict[str, float] = {}

    def score(self, examples: Sequence[Example]) -> Tensor:
        """(len(examples),)"""
        graded = self._model.grade(examples)
        self.figures = {"reward_disagreement": float(graded.disagreement.nanmean())}
        return graded.mean - self._coefficient * graded.disagreement


def score(backbone: Backbone, examples: Sequence[Example], members: int) -> Tensor:
    """What each head says of each reply: (len(examples), members), on the CPU."""
    return parallel.rows(examples, partial(_score_some, backbone, members), tokens_of)


@torch.no_grad()
def _score_some(backbone: Backbone, members: int, examples: Sequence[Example]) -> Tensor:
    raw, fitting = torch.zeros(len(examples), members), MicroBatches("graded replies")

    def rewards(indices: Sequence[int]) -> Tensor:
        return backbone.rewards(collate([examples[index] for index in indices], backbone.pad_id)).cpu()

    for indices in by_length([tokens_of(example) for example in examples], SCORED_AT_ONCE):
        for part, found in fitting.each(indices, rewards):
            raw[list(part)] = found
    return raw
