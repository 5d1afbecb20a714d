"""Did the policy move towards what people scored higher? Measured on scores that nothing was trained on.

Of two replies that people scored differently the better one should have gained more likelihood, whatever they answer:
scores are points above what is usual with who gave them, and a gain is measured from what the anchor made of the same
reply. How often that holds is the concordance of gains and scores (Kendall 1938), a half by chance. As a mean over
pairs that share their members it varies no more than a mean over pairs that don't (Hoeffding 1948, Annals of
Mathematical Statistics 19(3)), so these are the draws of its interval: as many pairs of prompts, a point or more apart,
as can be made of them using each once. Of good and bad thumbs that would be the number of the rarer kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Scored, TokenIds
from learner.evaluate.intervals import Share, wilson

LEAST_APART = 1.0
"""Points between two replies that are held against each other: less is within what people are off by."""


def on_scores(backbone: Backbone, scored: Sequence[Scored]) -> dict[str, Any]:
    """The report's figures of held-out scored replies, every prompt counting alike."""
    by_prompt: defaultdict[TokenIds, list[float]] = defaultdict(list)
    for one in scored:
        by_prompt[one.prompt_token_ids].append(one.points)
    draws = disjoint_pairs([fmean(points) for points in by_prompt.values()])
    found: dict[str, Any] = {"scores": len(scored)}
    if not draws:
        return found | {"score_accuracy": Share(None, None, None, 0, 0)}
    examples = [(one.prompt_token_ids, one.reply_token_ids) for one in scored]
    points = torch.tensor([one.points for one in scored]).double()
    weights = torch.tensor([1 / len(by_prompt[one.prompt_token_ids]) for one in scored]).double()
    anchor = backbone.score(examples, "anchor").double()

    def accuracy(role: Role) -> float:
        return concordance(backbone.score(examples, role).double() - anchor, points, weights)

    value = accuracy("policy")
    found["score_accuracy"] = Share(value, *wilson(value * draws, draws), decided=draws, ties=0)
    if backbone.has("parent"):
        found["score_accuracy_parent"] = accuracy("parent")
    return found


def concordance(gains: Tensor, points: Tensor, weights: Tensor) -> float:
    """How often the higher of two scores is that of the reply that gained more; equal gains count half. (N,) each.

    Two that are less than LEAST_APART points apart are left out; at least two have to be as far apart.
    """
    counted = weights.unsqueeze(1) * weights * (points.unsqueeze(1) - points >= LEAST_APART)  # (N, N): the first higher
    ahead = gains.unsqueeze(1) - gains
    agrees = (ahead > 0).to(counted) + 0.5 * (ahead == 0).to(counted)
    return float((counted * agrees).sum() / counted.sum())


def disjoint_pairs(points: Sequence[float]) -> int:
    """Most pairs, at least LEAST_APART apart, that can be made of these using each once."""
    ordered, matched = sorted(points), 0
    half = len(ordered) // 2
    for high in ordered[half:]:  # the lower half and the upper half can be matched in order
        if matched < half and high - ordered[matched] >= LEAST_APART:
            matched += 1
    return matched
