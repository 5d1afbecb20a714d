"""Losses as pure functions: tensors and numbers in, `(loss, metrics)` out. No model, no device, no logging.

Log-probabilities of a reply are the sum over its tokens, EOS included. Metrics are detached floats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.tensors import masked_mean, masked_sum, share_right

Metrics = dict[str, float]


def sft_loss(log_probs: Tensor, reply_mask: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood per reply token, averaged over the tokens of the batch.

    log_probs, reply_mask: (B, T), aligned (log_probs[b, t] is that of the token whose mask is reply_mask[b, t]);
    weights: (B,), how much each example's tokens count. Nothing to score gives a loss of 0.
    """
    weights = torch.ones(len(log_probs)).to(log_probs) if weights is None else weights.to(log_probs)
    tokens = reply_mask.sum(1).to(log_probs) @ weights
    loss = -(masked_sum(log_probs, reply_mask, 1) @ weights) / tokens.clamp(min=torch.finfo(log_probs.dtype).tiny)
    return loss, {"nll": loss.item()}


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_anchor: Tensor,
    rejected_anchor: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    robust: bool = False,
    margins: Tensor | None = None,
    ties: Tensor | None = None,
    weights: Tensor | None = None,
    certainties: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Direct preference optimisation (arXiv 2305.18290) on pairs, with smoothing, strengths and ties.

    The first four: (B,) log-probabilities of replies under policy and anchor. margins: (B,) strength of each
    preference, 1 for an ordinary one; log(strength) is the offset that the implicit reward difference must exceed
    (arXiv 2402.10571). ties: (B,) bool; a tie asks for equal implicit rewards (a target of ½), whatever its margin.
    `label_smoothing`: the share ε of judgements taken to be wrong. With z the difference less the offset and
    l(z) = -log σ(z), a pair costs (1 - ε) l(z) + ε l(-z), or, `robust`, ((1 - ε) l(z) - ε l(-z)) / (1 - 2ε): over such
    mistakes in ordinary preferences the mean of that is l without them (arXiv 2403.00409), though for one pair it has
    no lower bound. certainties: (B,) probability p that the chosen reply is the better one, 1 where none are given; a
    soft label, as an AI judge gives it (arXiv 2212.08073), costs p l(z) + (1 - p) l(-z), each side then smoothed.
    ValueError where a robust loss is asked for with ε ≥ ½.
    """
    if robust and label_smoothing >= 0.5:
        raise ValueError(f"Robust DPO needs fewer than half of the judgements to be wrong, not {label_smoothing:g}.")
    logits = beta * ((chosen - chosen_anchor) - (rejected - rejected_anchor))
    certainty = 1.0 - label_smoothing
    if robust:
        certainty /= 1.0 - 2 * label_smoothing  # above 1, so that what is left to the other side is negative
    soft = torch.ones_like(logits) if certainties is None else certainties.to(logits)
    target = soft * certainty + (1.0 - soft) * (1.0 - certainty)
    offset = torch.zeros_like(logits) if margins is None else margins.to(logits).clamp(min=1e-6).log()
    if ties is not None:
        target = torch.where(ties, torch.full_like(target, 0.5), target)
        offset = torch.where(ties, torch.zeros_like(offset), offset)
    each = F.binary_cross_entropy_with_logits(logits - offset, target, reduction="none")
    weights = torch.ones_like(each) if weights is None else weights.to(each)
    loss = (each * weights).sum() / weights.sum().clamp(min=torch.finfo(each.dtype).tiny)
    decided = torch.ones_like(logits, dtype=torch.bool) if ties is None else ~ties
    return loss, {
        "dpo": loss.item(),
        "reward_margin": masked_mean(logits, decided).item(),
        "reward_accuracy": masked_mean(share_right(logits), decided).item(),
        "chosen_reward": beta * (chosen - chosen_anchor).mean().item() if len(logits) else 0.0,
        "rejected_reward": beta * (rejected - rejected_anchor).mean().item() if len(logits) else 0.0,
    }


def kto_loss(
    log_probs: Tensor,
    log_probs_anchor: Tensor,
    desirable: Tensor,
    mismatched: Tensor,
    mismatched_anchor: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Kahneman-Tversky optimisation (L_KTO of arXiv 2402.01306) on replies that are good or bad, each by itself.

    log_probs, log_probs_anchor: (B,) of replies under policy and anchor; desirable: (B,) bool. mismatched and
    mismatched_anchor: (M,) the same of replies to prompts that they do not answer; their mean log-ratio, not below 0,
    is the paper's estimate of the KL z₀ that gains and losses are counted from, and has no gradient. weights: (B,).
    A good reply costs λ_D · (1 - σ(β (r - z₀))), a bad one λ_U · (1 - σ(β (z₀ - r))), r its log-ratio: the mean of
    that over the batch, by weight (the λ are no part of what it is divided by, as in TRL). Either side may be empty.
    """
    ratios = log_probs - log_probs_anchor
    kl = (mismatched - mismatched_anchor).detach()
    kl = masked_mean(kl, torch.isfinite(kl)).clamp(min=0)
    gains = beta * torch.where(desirable, ratios - kl, kl - ratios)
    each = torch.sigmoid(-gains) * torch.full_like(gains, undesirable_weight).masked_fill(desirable, desirable_weight)
    weights = torch.ones_like(each) if weights is None else weights.to(each)
    loss = (each * weights).sum() / weights.sum().clamp(min=torch.finfo(each.dtype).tiny)
    rewards = beta * ratios.detach()
    return loss, {
        "kto": loss.item(),
        "reference_kl": kl.item(),
        "good_reward": masked_mean(rewards, desirable).item(),
        "bad_reward": masked_mean(rewards, ~desirable).item(),
    }


def listwise_loss(log_probs: Tensor, log_probs_anchor: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Metrics]:
    """Cross-entropy between a target distribution over k replies of one prompt and the policy's implied one.

    The policy that maximises reward less β KL to the anchor is π ∝ anchor · exp(r / β) (arXiv 2305.18290, eq. 4), so
    for replies drawn in any way softmax(log π - log anchor) over them must equal softmax(r / β): `targets`. With two
    replies this is DPO at β = 1 with soft labels; with more it is listwise (arXiv 2402.01878). The anchor may be an
    earlier policy: then it is a step of mirror descent from there.
    Shapes: all (G, K); mask is True where there is a reply; each row of targets sums to 1 over its mask.
    """
    ratios = (log_probs - log_probs_anchor).masked_fill(~mask, -torch.inf)
    implied = torch.log_softmax(ratios, dim=-1).masked_fill(~mask, 0.0)
    cross_entropy = -(targets * implied).sum(-1)  # (G,)
    entropy = -torch.special.xlogy(targets, targets).sum(-1)
    usable = mask.sum(-1) > 1
    loss = masked_mean(cross_entropy - entropy, usable)  # the KL from target to implied: 0 is perfect
    return loss, {"listwise": loss.item()}
