"""The judgements that a reward model learns from, each head from a bootstrap sample of its own (bagging, Breiman 1996).

A ranking is drawn as one and counts as one, so do a person's scores of one prompt, which make pairs as a ranking does,
and so does everything that isn't part of either. The loss of a step and the figures of what was kept apart are taken
over pairs, thumbs and scores together: a reward of r is the log-odds of being preferred, and foretells a score of
r / NATS_PER_POINT points above what is usual with whoever gave it. That map is fixed: scores by themselves would leave
the reward's unit open, which pairs settle as log-odds. By Thurstone's law of comparative judgment (Psychological Review
34, 1927, case V) people whose scores of one reply vary by σ prefer a reply that is worth Δ points more with probability
Φ(Δ / (σ √2)), nearly the logistic function of 1.702 Δ / (σ √2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from learner.backbone import Backbone
from learner.batch import Example, Label, Pair, Scored, collate
from learner.methods.optimizer import Stepper
from learner.methods.reward_model import score
from learner.reward_losses import (
    binary_reward_loss,
    fit_temperature,
    huber,
    pairwise_reward_loss,
    rank_correlation,
    regression_reward_loss,
)
from service.settings import LearnerSettings

NOISE_POINTS = 2.0
"""σ: by how many points of ten a person's score of one reply differs from what it is worth to them (standard deviation;
an assumption, no measurement)."""
NATS_PER_POINT = 1.702 / (2**0.5 * NOISE_POINTS)


class BaggedJudgements:
    """Judgements to learn the reward from, or to measure it on. With a `seed` each head gets a bootstrap sample.
    `alone_weight`: what a label, or a score, counts in the loss against a pair, or a group of them."""

    def __init__(
        self,
        backbone: Backbone,
        pairs: Sequence[Pair],
        labels: Sequence[Label],
        scored: Sequence[Scored],
        settings: LearnerSettings,
        seed: int | None = None,
        alone_weight: float = 1.0,
    ) -> None:
        self._backbone, self._pairs, self._labels, self._scored = backbone, pairs, labels, scored
        self._members, self._centring = settings.reward_members, settings.reward_centring
        self._smoothing = settings.reward_label_smoothing
        names = [pair.group or f"pair {index}" for index, pair in enumerate(pairs)]
        self._groups = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self._group = torch.tensor([self._groups[name] for name in names], dtype=torch.long)
        pairs_count, alone = len(self._groups), len(labels) + len(scored)
        weight = (pairs_count + alone) / max(pairs_count + alone_weight * alone, 1e-30)
        self._kinds_weigh = weight, alone_weight * weight, alone_weight * weight  # 1 on the average
        drawn = torch.ones(len(self._groups) + len(labels) + len(scored), self._members)
        if seed is not None:  # how often each of n is among n draws from them, nearly
            drawn = torch.poisson(drawn, torch.Generator().manual_seed(seed))
        of_groups, self._labels_drawn, self._scored_drawn = drawn.split([len(self._groups), len(labels), len(scored)])
        self._pairs_drawn = of_groups[self._group]

    def batches(self, size: int, rng: Random) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """Indices of pairs, of labels and of scored replies, in random order, about `size` in all and about as many in
        each step; the pairs of a group, a ranking's for one, stay together."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for index, group in enumerate(self._group.tolist()):
            members[group].append(index)
        nothing: list[int] = []
        units = [(group, nothing, nothing) for group in members.values()]
        units += [(nothing, [index], nothing) for index in range(len(self._labels))]
        units += [(nothing, nothing, [index]) for index in range(len(self._scored))]
        rng.shuffle(units)
        total = len(self._pairs) + len(self._labels) + len(self._scored)
        size = -(-total // max(1, -(-total // size)))
        step: tuple[list[int], list[int], list[int]] = [], [], []
        for unit in units:
            for indices, more in zip(step, unit, strict=True):
                indices += more
            if sum(map(len, step)) >= size:
                yield step
                step = [], [], []
        if any(step):
            yield step

    def add(self, stepper: Stepper, of_step: Sequence[Sequence[int]]) -> dict[str, float]:
        """Add the loss of a step's pairs, labels and scores to it, a group's pairs together as one. Metrics: of the
        last head."""
        pairs, labels, scored = of_step
        of_pairs = torch.zeros(len(self._pairs), self._members)
        of_pairs[list(pairs)] = self._weights(self._pairs, pairs, self._pairs_drawn)
        of_labels = torch.zeros(len(self._labels), self._members)
        of_labels[list(labels)] = self._weights(self._labels, labels, self._labels_drawn)
        of_scores = torch.zeros(len(self._scored), self._members)
        of_scores[list(scored)] = self._weights(self._scored, scored, self._scored_drawn)
        counts = len(self._group[list(pairs)].unique()), len(labels), len(scored)
        examples = sum(map(len, of_step))
        shares = [
            examples * count * weight / sum(counts) for count, weight in zip(counts, self._kinds_weigh, strict=True)
        ]
        loss = partial(self._loss, (of_pairs, of_labels, of_scores), shares)
        return stepper.add("judgements", [(kind, one) for kind, some in enumerate(of_step) for one in some], loss)

    def _loss(
        self,
        weights: tuple[Tensor, Tensor, Tensor],
        shares: Sequence[float],
        part: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over the heads, each on its own sample, in nats; a label, or a score, counts `alone_weight` times as
        much as a pair, or a group of them.

        weights: (all pairs, heads), (all labels, heads) and (all scores, heads), 0 for what isn't of the step; shares:
        how much of the step pairs, labels and scores are to take, in its examples; part: some of it, pairs as
        (0, index), labels as (1, index), scores as (2, index).
        """
        pairs, labels, scored = ([index for kind, index in part if kind == wanted] for wanted in range(3))
        chosen, rejected, called, rated = self._rewards(pairs, labels, scored)
        points = torch.tensor([self._scored[index].points for index in scored])
        device, losses, metrics = chosen.device, list[Tensor](), dict[str, float]()
        of_pairs, of_labels, of_scores = (
            of_all[some].to(device) for of_all, some in zip(weights, (pairs, labels, scored), strict=True)
        )
        scales = [
            share * some.sum(0) / of_all.sum(0).to(device).clamp(min=1e-30) / len(part)
            for share, some, of_all in zip(shares, (of_pairs, of_labels, of_scores), weights, strict=True)
        ]
        for head in range(self._members):
            lost, metrics = pairwise_reward_loss(
                chosen[:, head], rejected[:, head], label_smoothing=self._smoothing, centring=self._centring,
                margins=torch.tensor([self._pairs[index].margin for index in pairs]).clamp(min=1e-6).log().to(device),
                ties=torch.tensor([self._pairs[index].tie for index in pairs], dtype=torch.bool, device=device),
                weights=of_pairs[:, head],
                certainties=torch.tensor([self._pairs[index].certainty for index in pairs]).to(device),
            )  # fmt: skip
            good = torch.tensor([self._labels[index].desirable for index in labels], dtype=torch.bool, device=device)
            also, more = binary_reward_loss(
                called[:, head], good, weights=of_labels[:, head], label_smoothing=self._smoothing
            )  # fmt: skip
            metrics = (metrics if len(pairs) else {}) | (more if len(labels) else {})
            of_points, and_more = regression_reward_loss(
                rated[:, head] / NATS_PER_POINT, points.to(device), spread=NOISE_POINTS, weights=of_scores[:, head]
            )  # fmt: skip
            metrics |= and_more if len(scored) else {}
            losses.append(scales[0][head] * lost + scales[1][head] * also + scales[2][head] * of_points)
        return torch.stack(losses).mean(), metrics

    def log_loss(self) -> float:
        """Negative log-likelihood per judgement under the mean of the heads, calibrated, in nats; of scores without its
        constant."""
        logits, targets, foretold, scores = self._logits()
        temperature = fit_temperature(logits, targets, foretold, scores)
        lost = binary_cross_entropy_with_logits(logits / temperature, targets, reduction="sum")
        off = huber(foretold / temperature - scores).sum()
        return float((lost + off) / (len(targets) + len(scores)))

    def figures(self) -> dict[str, Any]:
        """What `RewardFit` says of judgements that were kept apart; of none, nothing."""
        logits, targets, foretold, scores = self._logits()
        temperature = fit_temperature(logits, targets, foretold, scores)
        right = ((logits > 0) == (targets > 0.5)).float()
        is_pair = torch.arange(len(targets)) < len(self._pairs)
        return {
            "accuracy": _mean(right[is_pair & (targets != 0.5)]),
            "label_accuracy": _mean(right[~is_pair]),
            "log_likelihood": _mean(-binary_cross_entropy_with_logits(logits / temperature, targets, reduction="none")),
            "temperature": temperature,
            "score_correlation": rank_correlation(foretold, scores),
        }

    def _logits(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-odds that the first of a pair is better, then that a labelled reply is good; and what people said. Then
        the scores that rewards foretell, and those that people gave, in standard deviations of their noise."""
        rewards = score(self._backbone, _replies(self._pairs, self._labels, self._scored), self._members).mean(1)
        sizes = [len(self._pairs), len(self._pairs), len(self._labels), len(self._scored)]
        chosen, rejected, called, rated = rewards.split(sizes)
        said = [0.5 if pair.tie else pair.certainty for pair in self._pairs] + [
            float(one.desirable) for one in self._labels
        ]
        scores = torch.tensor([one.points for one in self._scored]) / NOISE_POINTS
        foretold = rated / (NATS_PER_POINT * NOISE_POINTS)
        return torch.cat([chosen - rejected, called]), torch.tensor(said), foretold, scores

    def _rewards(
        self, pairs: Sequence[int], labels: Sequence[int], scored: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of chosen, rejected, labelled and scored replies, (…, heads) each; a pair's prompt is computed once."""
        two, one = [self._pairs[index] for index in pairs], [self._labels[index] for index in labels]
        rated = [self._scored[index] for index in scored]
        rewards = self._backbone.rewards(collate(_replies(two, one, rated), self._backbone.pad_id))
        first, second, third, fourth = rewards.split([len(two), len(two), len(one), len(rated)])
        return first, second, third, fourth

    @staticmethod
    def _weights(judgements: Sequence[Pair | Label | Scored], indices: Sequence[int], drawn: Tensor) -> Tensor:
        """(len(indices), heads)"""
        return drawn[list(indices)] * torch.tensor([judgements[index].weight for index in indices]).unsqueeze(1)


def _replies(pairs: Sequence[Pair], labels: Sequence[Label], scored: Sequence[Scored]) -> list[Example]:
    """The chosen ones, then the rejected, then the labelled, then the scored."""
    alone: list[Label | Scored] = [*labels, *scored]
    return [
        *((pair.prompt_token_ids, pair.chosen) for pair in pairs),
        *((pair.prompt_token_ids, pair.rejected) for pair in pairs),
        *((one.prompt_token_ids, one.reply_token_ids) for one in alone),
    ]


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
