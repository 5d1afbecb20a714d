"""Arithmetic on tensors of tokens that every method shares: log-probabilities, masked reductions, KL.

A mask says which tokens count (True). Every reduction of an empty mask is 0, not NaN: a batch without one scored token
must not poison a run.
"""

from __future__ import annotations

import torch
from torch import Tensor

NO_MARGIN = 1e-4
"""Nats that sums of log-probabilities in float32 may differ by where they should be the same."""


def token_log_probs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Log-probability of each token under the logits that predict it.

    logits: (..., V), already shifted so that logits[..., i, :] predicts token_ids[..., i]; returns float32 (...).
    """
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of the values where mask is True; what stands elsewhere (NaN and inf too) is ignored."""
    kept = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the values where mask is True; 0 where nothing is."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(values, mask, dim) / count.clamp(min=1)


def share_right(margins: Tensor) -> Tensor:
    """1 where a margin is above 0, 0 where it is below, and ½ where it is none but for rounding: as a coin is right."""
    return torch.where(margins.abs() < NO_MARGIN, 0.5, (margins > 0).float())


def top_log_probs(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most likely tokens of each position and their log-probabilities: (N, V) → (N, K) ids, (N, K)."""
    values, token_ids = torch.log_softmax(logits.float(), dim=-1).topk(min(count, logits.shape[-1]), dim=-1)
    return token_ids, values


def kl_top(logits: Tensor, top_ids: Tensor, top_anchor: Tensor) -> Tensor:
    """KL(anchor ‖ policy) per position from the anchor's top tokens, all others taken together as one event.

    A lower bound of the exact KL that needs K numbers a position instead of V: (N, V), (N, K), (N, K) → (N,), nats.
    """
    top = torch.log_softmax(logits.float(), dim=-1).gather(-1, top_ids)
    return kl_of_top(top, top_anchor, has_rest=top_ids.shape[-1] < logits.shape[-1])


def kl_of_top(top: Tensor, top_anchor: Tensor, has_rest: bool) -> Tensor:
    """`kl_top` of the log-probabilities of these tokens under the policy and the anchor: (N, K) both → (N,), nats.

    `has_rest`: whether there are other tokens.
    """
    kl = (top_anchor.exp() * (top_anchor - top)).sum(-1)
    if has_rest:
        rest_anchor = (1 - top_anchor.exp().sum(-1)).clamp(min=1e-7)
        rest = (1 - top.exp().sum(-1)).clamp(min=1e-7)
        kl = kl + rest_anchor * (rest_anchor.log() - rest.log())
    return kl


def pull_to_anchor(
    logits: Tensor, logits_anchor: Tensor, stay: float | Tensor, sharpen: float
) -> tuple[Tensor, dict[str, float]]:
    """stay · KL(policy ‖ anchor) + sharpen · cross-entropy of the policy's tokens under the anchor, mean over (N, V).

    `stay`: one weight, or one for each position, (N,).

    The first keeps the policy from tokens that the anchor would hardly say; the second moves it to those that the
    anchor would say first, which raises fluency. Exact over the vocabulary at every position, so it needs no samples.
    """
    log_p, log_q = torch.log_softmax(logits.float(), -1), torch.log_softmax(logits_anchor.float(), -1)
    p = log_p.exp()
    if len(logits) == 0:
        return logits.sum(), {"kl": 0.0, "surprise": 0.0}
    kl = (p * (log_p - log_q)).sum(-1)  # (N,)
    surprise = -(p * log_q).sum(-1).mean()
    return (stay * kl).mean() + sharpen * surprise, {"kl": kl.mean().item(), "surprise": surprise.item()}
