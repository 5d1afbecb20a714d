"""What replies are worth that an engine sampled: its log-probabilities differ from the trainer's.

An engine computes in another precision and another order, so it samples from a policy beside the one that is trained.
Each token is weighed by how much likelier the trainer finds it, up to a cap: truncated importance sampling (Ionides
2008, Journal of Computational and Graphical Statistics 17(2)), whose bias is small and whose variance is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Example
from learner.policy_losses import truncated_importance
from learner.sampling import Reply
from learner.tensors import masked_mean


def token_importance(
    replies: Sequence[Reply], log_probs: Tensor, mask: Tensor, cap: float
) -> tuple[Tensor | None, dict[str, float]]:
    """Weight of each token of N replies, and what the weights are like.

    log_probs: the trainer's, (N, T); mask: bool, the replies' tokens. The weights: (N, T), 0 outside the replies, or
    None where the trainer sampled itself. `importance`: the mean weight; `importance_capped`: the share of tokens above
    the cap; `engine_gap`: mean |trainer - engine|, in nats per token.
    """
    sampled = [value for reply in replies for value in reply.log_probs or ()]
    if any(reply.log_probs is None for reply in replies) or not sampled:
        return None, {}
    engine = torch.zeros_like(log_probs).masked_scatter(mask, torch.tensor(sampled).to(log_probs))
    weights = torch.where(mask, truncated_importance(log_probs, engine, cap), torch.zeros_like(log_probs))
    ratio = (log_probs - engine).exp()
    return weights, {
        "importance": masked_mean(weights, mask).item(),
        "importance_capped": masked_mean((ratio > cap).float(), mask).item(),
        "engine_gap": masked_mean((log_probs - engine).abs(), mask).item(),
    }


def policy_log_probs(backbone: Backbone, replies: Sequence[Reply], examples: Sequence[Example]) -> list[float]:
    """Of whole replies, by the trainer's policy, whoever sampled them."""
    if any(reply.log_probs is not None for reply in replies):
        return [float(value) for value in backbone.score(examples, "policy")]
    return [reply.log_prob for reply in replies]
