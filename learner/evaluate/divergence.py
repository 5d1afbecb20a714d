"""How far the policy is from the anchor, measured on what the policy said itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner import parallel
from learner.adapted_model import Role
from learner.backbone import SCORED, Backbone
from learner.batch import Example, by_length, collate, tokens_of
from learner.policy_losses import kl_estimates
from learner.tensors import masked_sum

AT_ONCE = 32


def kl_of_replies(backbone: Backbone, examples: Sequence[Example], anchor: Role) -> Tensor:
    """KL(policy ‖ anchor) of replies that the policy sampled at temperature 1, (len(examples),), in nats a reply.

    By k3, token by token: as true on the average as the difference of log-probabilities, and never below 0 (Schulman,
    joschu.net/blog/kl-approx.html). NaN or infinite where a log-probability is.
    """

    roles: tuple[Role, Role] = ("policy", anchor)

    def estimates(some: Sequence[Example]) -> Tensor:
        with torch.no_grad():
            batch = collate(some, backbone.pad_id).to(backbone.device)
            own, others = (backbone.log_probs(batch, role).double() for role in roles)
            return masked_sum(kl_estimates(own, others)[2], batch.reply_mask, 1).float().cpu()

    def of_share(share: Sequence[Example]) -> Tensor:
        found = torch.zeros(len(share))
        for indices in by_length([tokens_of(one) for one in share], AT_ONCE):
            work = backbone.fitting[SCORED].each(indices, lambda part: estimates([share[place] for place in part]))
            for part, kl in work:
                found[list(part)] = kl
        return found

    return parallel.rows(examples, of_share, tokens_of)
