"""Losses of reward models, and how to read what they say: pure functions on rewards.

Rewards are in nats of log-odds before calibration. Metrics are detached floats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.tensors import masked_mean, share_right

Metrics = dict[str, float]

HUBER = 1.345
"""By how many standard deviations of people's noise a score may be off and still count by its square; beyond, by its
distance. Where the noise is normal this tells 95 % of what least squares would (Huber 1964, Annals of Mathematical
Statistics 35(1); the constant: Holland and Welsch 1977)."""


def pairwise_reward_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margins: Tensor | None = None,
    ties: Tensor | None = None,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    centring: float = 0.0,
    certainties: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Bradley-Terry: -log σ(chosen - rejected - margin) (arXiv 2203.02155, eq. 1; the margin: arXiv 2307.09288, eq. 2).

    All (B,). margins: nats that the difference must exceed. `label_smoothing`: the share of judgements taken to be
    wrong. A tie (`ties`, bool) asks for equal rewards: a target of ½, whatever its margin; it counts in no accuracy.
    `certainties`: the probability that the chosen reply is the better one, 1 where none are given: soft labels.
    `centring` times the mean of (chosen + rejected)², by the same weights, keeps rewards around 0 (arXiv 2312.09244).
    Nothing to learn from gives a loss of 0.
    """
    logits = chosen - rejected
    soft = torch.ones_like(logits) if certainties is None else certainties.to(logits)
    target = label_smoothing + (1.0 - 2 * label_smoothing) * soft
    offset = torch.zeros_like(logits) if margins is None else margins.to(logits)
    decided = torch.ones_like(logits, dtype=torch.bool) if ties is None else ~ties
    target = torch.where(decided, target, torch.full_like(target, 0.5))
    offset = torch.where(decided, offset, torch.zeros_like(offset))
    each = F.binary_cross_entropy_with_logits(logits - offset, target, reduction="none")
    each = each + centring * (chosen + rejected).square()
    weights = torch.ones_like(each) if weights is None else weights.to(each)
    loss = _weighted_mean(each, weights)
    return loss, {
        "reward_loss": loss.item(),
        "reward_accuracy": masked_mean(share_right(logits), decided).item(),
        "reward_margin": masked_mean(logits, decided).item(),
        "mean_reward": 0.5 * (chosen + rejected).mean().item() if len(logits) else 0.0,
    }


def binary_reward_loss(
    rewards: Tensor, good: Tensor, *, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> tuple[Tensor, Metrics]:
    """Logistic regression: a good reply's reward is above 0, a bad one's below. All (B,); good: bool."""
    target = good.to(rewards) * (1.0 - 2 * label_smoothing) + label_smoothing
    each = F.binary_cross_entropy_with_logits(rewards, target, reduction="none")
    loss = _weighted_mean(each, torch.ones_like(each) if weights is None else weights.to(each))
    right = ((rewards > 0) == good).float().mean().item() if len(rewards) else 0.0
    return loss, {"label_loss": loss.item(), "label_accuracy": right}


def regression_reward_loss(
    rewards: Tensor, targets: Tensor, *, spread: float = 1.0, weights: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """Huber's loss (1964) of rewards against what people said, in the same units. All (B,).

    `spread`: the standard deviation of what different people say of one reply, in those units. An error of e of them
    costs ½ e², in nats as normal noise has it, up to HUBER; from there on it costs as much more as the slope there, so
    that no single reply moves the reward by more than so much, however wild its score.
    """
    errors = (rewards - targets) / spread
    each = huber(errors)
    loss = _weighted_mean(each, torch.ones_like(each) if weights is None else weights.to(each))
    beyond = (errors.detach().abs() > HUBER).float().mean().item() if len(errors) else 0.0
    return loss, {"score_loss": loss.item(), "score_outliers": beyond}


def huber(errors: Tensor) -> Tensor:
    """½ e² up to HUBER, and a straight line from there on; errors in standard deviations of the noise. Any shape."""
    return F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=HUBER)


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's: the correlation of ranks, ties sharing the mean of theirs. (N,) each; None where either is constant.

    1 where both order alike, -1 where they order the other way round.
    """
    ranks = torch.stack([_ranks(first), _ranks(second)])
    return float(torch.corrcoef(ranks)[0, 1]) if len(first) > 1 and bool((ranks.std(1) > 0).all()) else None


def _ranks(values: Tensor) -> Tensor:
    _, place, size = values.unique(return_inverse=True, return_counts=True)
    last = size.cumsum(0).double()
    return (last - (size - 1) / 2)[place]


def ensemble(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased; 0 for a single one) over the members: (M, B) → (B,), (B,)."""
    mean = rewards.mean(0)
    return mean, rewards.std(0) if len(rewards) > 1 else torch.zeros_like(mean)


MOST_SHARPENING = 20.0
"""1 / temperature, at most: where all is foretold right the likelihood asks for ever more."""


def fit_temperature(
    logits: Tensor, targets: Tensor, foretold: Tensor | None = None, scores: Tensor | None = None
) -> float:
    """The temperature T at which σ(logits / T) foretells the targets best (arXiv 1706.04599, section 4.2).

    The negative log-likelihood is convex in 1 / T, so its slope is bisected, in float64, for T between
    1 / MOST_SHARPENING and 1000. logits, targets (in [0, 1]): (N,). `scores` (M,) have a say, too, where there are any:
    by `huber` around foretold / T, both in standard deviations of the noise. Nothing to fit to gives 1.
    """
    logits, targets = logits.detach().double(), targets.detach().double()
    foretold = torch.zeros(0) if foretold is None else foretold
    foretold = foretold.detach().to(logits)
    scores = torch.zeros_like(foretold) if scores is None else scores.detach().to(logits)
    if not logits.any() and not foretold.any():
        return 1.0
    low, high = 1e-3, MOST_SHARPENING

    def slope(sharpening: float) -> float:
        of_logits = (torch.sigmoid(sharpening * logits) - targets) @ logits
        return float(of_logits + (sharpening * foretold - scores).clamp(-HUBER, HUBER) @ foretold)

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) <= 0 else (low, middle)
    return 2 / (low + high)


def _weighted_mean(each: Tensor, weights: Tensor) -> Tensor:
    return (each * weights).sum() / weights.sum().clamp(min=torch.finfo(each.dtype).tiny)
