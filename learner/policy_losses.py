"""The arithmetic of KL-regularised policy optimisation as pure functions, on rows of reply tokens.

Tensors of tokens are (B, T) with a bool mask of that shape, whose True places are the reply's tokens, one stretch a
row. What stands elsewhere, NaN and inf too, changes nothing. Log-probabilities and KL are in nats; losses are returned
with their metrics, which are detached floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from learner.tensors import masked_mean, masked_sum

Metrics = dict[str, float]


def kl_estimates(log_probs: Tensor, log_probs_anchor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates of KL(policy ‖ anchor) at tokens that the policy sampled (joschu.net/blog/kl-approx.html).

    With r = anchor / policy: k1 = -log r, without bias; k2 = ½ (log r)², little variance; k3 = r - 1 - log r, without
    bias and never negative. All of the shape of `log_probs`.
    """
    log_ratio = log_probs_anchor - log_probs
    return -log_ratio, 0.5 * log_ratio.square(), torch.expm1(log_ratio) - log_ratio


def token_rewards(
    scores: Tensor,
    log_probs: Tensor,
    log_probs_anchor: Tensor,
    mask: Tensor,
    kl_coefficient: float,
    *,
    ended: Tensor | None = None,
    missing_eos_penalty: float | None = None,
    clip: float | None = None,
    kl_estimator: Literal["k1", "k3"] = "k1",
) -> Tensor:
    """-β KL(policy ‖ anchor) at every reply token, and the reply's score at its last one (arXiv 2009.01325).

    scores: (B,), cut to ± `clip` where one is given; a reply that has not `ended` ((B,) bool) then loses
    `missing_eos_penalty`. The others: (B, T). `kl_estimator`: which of `kl_estimates`; the paper's is k1, whose sum
    over a reply is its log-ratio. Returns (B, T), 0 outside the reply, without a gradient.
    """
    scores = scores if clip is None else scores.clamp(-clip, clip)
    if ended is not None and missing_eos_penalty is not None:
        scores = scores - missing_eos_penalty * (~ended).to(scores)
    kl = kl_estimates(log_probs, log_probs_anchor)[0 if kl_estimator == "k1" else 2]
    penalty = torch.where(mask, -kl_coefficient * kl, torch.zeros_like(kl))
    return (penalty + torch.where(_last(mask), scores.unsqueeze(1).to(kl), torch.zeros_like(kl))).detach()


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Divide by the standard deviation of the values under the mask, after taking off their mean.

    The variance is unbiased, and 1e-8 is added to it, as in TRL's `masked_whiten`. Without `shift_mean` the mean is
    given back. Fewer than two values have no deviation: they are only shifted. All (B, T); 0 outside the mask.
    """
    count, values = mask.sum(), _inside(values, mask)
    mean = masked_mean(values, mask)
    variance = _squared_distances(values, mask) / (count - 1).clamp(min=1)
    scale = torch.where(count > 1, torch.rsqrt(variance + 1e-8), torch.ones_like(variance))
    whitened = (values - mean) * scale + (0.0 if shift_mean else mean)
    return torch.where(mask, whitened, torch.zeros_like(whitened))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16): advantages and returns, (B, T) both.

    values[:, t]: of the state in which token t is chosen; after the last token 0. Returns are advantages + values.
    Both are 0 outside the mask and have no gradient.
    """
    rewards, values = _inside(rewards, mask).detach(), _inside(values, mask).detach()
    advantages, following = torch.zeros_like(rewards), rewards.new_zeros(len(rewards))
    for place in reversed(range(rewards.shape[1])):
        next_value = values[:, place + 1] if place + 1 < rewards.shape[1] else torch.zeros_like(following)
        delta = rewards[:, place] + gamma * next_value - values[:, place]
        following = torch.where(mask[:, place], delta + gamma * lam * following, torch.zeros_like(following))
        advantages[:, place] = following
    return advantages, advantages + values


def ppo_policy_loss(
    log_probs: Tensor,
    log_probs_old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    importance: Tensor | None = None,
    entropy: Tensor | None = None,
    entropy_coefficient: float = 0.0,
    per_sequence: bool = False,
) -> tuple[Tensor, Metrics]:
    """The clipped surrogate (arXiv 1707.06347, eq. 7), negated: mean over the tokens of the batch, or, `per_sequence`,
    over each reply's tokens and then over the replies.

    importance: (B, T) weights of tokens that another policy sampled, taken as constants (`truncated_importance`); what
    is summed is still divided by the number of tokens. entropy: (B, T), whose mean, taken in the same way, is a bonus
    `entropy_coefficient` times. Over tokens: `clip_fraction`, the share whose gradient the clip stops;
    `approximate_kl`, from the old policy, by k2; `ratio`, the mean one.
    """
    log_ratio, advantages = _inside(log_probs - log_probs_old, mask), _inside(advantages, mask)
    ratio = log_ratio.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    each = torch.maximum(plain, clipped)
    if importance is not None:
        each = each * importance.detach()

    def mean(of: Tensor) -> Tensor:
        if not per_sequence:
            return masked_mean(of, mask)
        return masked_mean(masked_mean(of, mask, 1), mask.any(1))

    loss = mean(each)
    metrics = {"policy_loss": loss.item()}
    if entropy is not None:
        bonus = mean(entropy)
        loss = loss - entropy_coefficient * bonus
        metrics["entropy"] = bonus.item()
    with torch.no_grad():
        metrics |= {
            "clip_fraction": masked_mean((clipped > plain).float(), mask).item(),
            "approximate_kl": masked_mean(0.5 * log_ratio.square(), mask).item(),
            "ratio": masked_mean(ratio, mask).item(),
        }
    return loss, metrics


def ppo_value_loss(
    values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, *, clip: float = 0.2
) -> tuple[Tensor, Metrics]:
    """½ · mean of the larger of the squared errors of the value and of the value kept within ± clip of the old one
    (the value clipping of OpenAI's baselines, as InstructGPT's predecessors use it). All (B, T).

    `explained_variance`: 1 - Var(returns - values) / Var(returns); 0 where all returns are the same.
    """
    values, values_old, returns = _inside(values, mask), _inside(values_old, mask), _inside(returns, mask)
    kept = torch.clamp(values, values_old - clip, values_old + clip)
    plain, clipped = (values - returns).square(), (kept - returns).square()
    loss = 0.5 * masked_mean(torch.maximum(plain, clipped), mask)
    with torch.no_grad():
        spread, left = _squared_distances(returns, mask).item(), _squared_distances(returns - values, mask).item()
        metrics = {
            "value_loss": loss.item(),
            "value_clip_fraction": masked_mean((clipped > plain).float(), mask).item(),
            "explained_variance": 1 - left / spread if spread > 1e-8 else 0.0,
        }
    return loss, metrics


def truncated_importance(log_probs_trainer: Tensor, log_probs_engine: Tensor, cap: float = 2.0) -> Tensor:
    """min(π_trainer / π_engine, cap) for tokens that an engine sampled whose numbers differ a little; no gradient."""
    return (log_probs_trainer - log_probs_engine).detach().exp().clamp(max=cap)


def reinforce_advantages(scores: Tensor, baseline: float | Tensor) -> Tensor:
    """score - baseline (Williams 1992)."""
    return scores - baseline


def rloo_advantages(scores: Tensor) -> Tensor:
    """Each score less the mean of the others in its group (arXiv 2402.14740, eq. 8): (G, k) → (G, k), k ≥ 2."""
    count = _group_size(scores)
    return (scores - scores.mean(1, keepdim=True)) * count / (count - 1)


def grpo_advantages(scores: Tensor, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """Each score less its group's mean, over its standard deviation (unbiased) + eps (arXiv 2402.03300): (G, k), k ≥ 2.

    `scale` False leaves the deviation away, whose division favours groups that hardly differ (arXiv 2503.20783).
    """
    _group_size(scores)
    centred = scores - scores.mean(1, keepdim=True)
    return centred / (scores.std(1, keepdim=True) + eps) if scale else centred


def in_groups(scores: Tensor, sizes: Sequence[int], compare: Callable[[Tensor], Tensor]) -> Tensor:
    """What `compare`, (G, k) → (G, k), makes of groups that follow each other and may differ in size k: (N,) → (N,)."""
    parts = list(scores.split(list(sizes)))
    for size in dict.fromkeys(sizes):
        places = [place for place, one in enumerate(sizes) if one == size]
        compared = compare(torch.stack([parts[place] for place in places]))
        for place, part in zip(places, compared, strict=True):
            parts[place] = part
    return torch.cat(parts)


def entropy(logits: Tensor) -> Tensor:
    """Of the distribution at each position, in nats: (…, V) → (…,), float32. A logit of -inf is a token ruled out."""
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    return -(log_probs.exp() * log_probs.masked_fill(log_probs.isneginf(), 0.0)).sum(-1)


@dataclass
class AdaptiveKl:
    """A KL coefficient that follows a target (arXiv 1909.08593, section 2.2). One that is fixed is a plain number.

    It is multiplied, so that from 0 it would never move: it starts above, and stays there, since an update takes no
    more than half of it.
    """

    coefficient: float
    target: float  # nats
    horizon: int  # steps over which a constant error of 0.2 changes the coefficient by a factor of about e^0.2

    def update(self, kl: float, steps: int) -> float:
        """After `steps` more of them with this KL; returns the coefficient."""
        error = min(0.2, max(-0.2, kl / self.target - 1))
        self.coefficient *= max(0.5, 1 + error * steps / self.horizon)
        return self.coefficient


@dataclass
class RunningMoments:
    """Mean and variance of all numbers so far, batch by batch (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    sum_of_squares: float = 0.0  # of the distances from the mean

    @property
    def std(self) -> float:
        """Unbiased; 1 while there are fewer than two numbers."""
        return (self.sum_of_squares / (self.count - 1)) ** 0.5 if self.count > 1 else 1.0

    def update(self, values: Tensor) -> None:
        """Take in more numbers, of any shape."""
        new = values.detach().double().flatten()
        if not len(new):
            return
        count, mean = len(new), float(new.mean())
        apart, total = mean - self.mean, self.count + count
        self.sum_of_squares += float((new - mean).square().sum()) + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    def to_json(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "sum_of_squares": self.sum_of_squares}

    @classmethod
    def from_json(cls, state: Mapping[str, float]) -> RunningMoments:
        return cls(int(state["count"]), float(state["mean"]), float(state["sum_of_squares"]))


def _group_size(scores: Tensor) -> int:
    if scores.dim() != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"Groups of at least two replies to one prompt are needed, not scores of shape {tuple(scores.shape)}."
        )
    return int(scores.shape[1])


def _inside(values: Tensor, mask: Tensor) -> Tensor:
    """0 outside the mask, whatever stands there, before anything is computed: NaN has no gradient to be masked."""
    return torch.where(mask, values, torch.zeros_like(values))


def _squared_distances(values: Tensor, mask: Tensor) -> Tensor:
    """Sum, over the values under the mask, of the squared distances from their mean."""
    return masked_sum((values - masked_mean(values, mask)).square(), mask)


def _last(mask: Tensor) -> Tensor:
    """(B, T): True at the last True place of each row, however many stretches it has."""
    to_come = mask.flip(1).cumsum(1).flip(1)  # True places from here to the end of the row
    return mask & (to_come == 1)
