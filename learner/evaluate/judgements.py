"""Did the policy move towards what people judged to be better? Measured on likelihoods alone: of what was held out, and
of the corrections that it was taught. Scores have a file of their own (`learner.evaluate.scores`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair, mean_by_prompt

MOST_TAUGHT = 256
KNOWN_LOG_PROB = -math.log(2)
"""Of a whole reply: a probability of a half, above which the policy would rather say it than anything else."""
FORGOTTEN_LOG_PROB = 2 * KNOWN_LOG_PROB
"""A quarter. Between the two it is neither: nobody counts as forgotten for a breath."""


def on_preferences(backbone: Backbone, decided: Sequence[Pair]) -> dict[str, Any]:
    """Did the policy move towards the better replies?"""
    if not decided:
        return {}
    chosen = [(pair.prompt_token_ids, pair.chosen) for pair in decided]
    rejected = [(pair.prompt_token_ids, pair.rejected) for pair in decided]
    gain = backbone.score(chosen, "policy") - backbone.score(chosen, "anchor")
    gain_rejected = backbone.score(rejected, "policy") - backbone.score(rejected, "anchor")
    agrees = (gain > gain_rejected).float() + 0.5 * (gain == gain_rejected).float()
    return {"pair_accuracy": mean_by_prompt(decided, agrees)}


def on_labels(backbone: Backbone, labels: Sequence[Label]) -> dict[str, Any]:
    """Did good replies gain more than bad ones? Every good one against every bad one; every prompt counts alike."""
    if not labels:
        return {}
    asked = Counter((label.desirable, label.prompt_token_ids) for label in labels)
    prompts = Counter(is_good for is_good, _ in asked)
    found: dict[str, Any] = {"labels": len(labels), "label_prompts": min(prompts[True], prompts[False])}
    if not found["label_prompts"]:
        return found
    examples = [(label.prompt_token_ids, label.reply_token_ids) for label in labels]
    gain = (backbone.score(examples, "policy") - backbone.score(examples, "anchor")).double()
    weight = torch.tensor([1 / asked[label.desirable, label.prompt_token_ids] for label in labels]).double()
    good = torch.tensor([label.desirable for label in labels])
    ahead = gain[good].unsqueeze(1) - gain[~good]  # (good, bad)
    won = (ahead > 0).double() + 0.5 * (ahead == 0).double()
    return found | {"label_accuracy": float(weight[good] @ won @ weight[~good]) / (prompts[True] * prompts[False])}


def on_corrections(backbone: Backbone, demonstrations: Sequence[Demonstration]) -> dict[str, Any]:
    """How likely did replies become that people wrote, and nothing was trained on?"""
    examples = [(d.prompt_token_ids, d.reply_token_ids) for d in demonstrations]
    if not examples:
        return {}
    tokens = sum(len(reply) for _, reply in examples)
    return {
        "corrections": len(examples),
        "correction_log_prob": float(backbone.score(examples, "policy").sum()) / tokens,
        "correction_log_prob_before": float(backbone.score(examples, _before(backbone)).sum()) / tokens,
        "correction_log_prob_base": float(backbone.score(examples, "base").sum()) / tokens,
    }


def on_taught(backbone: Backbone, taught: Sequence[Demonstration]) -> dict[str, Any]:
    """Would the policy give the corrections that it learned from, and those that its parent would have given?"""
    examples = [(d.prompt_token_ids, d.reply_token_ids) for d in taught][-MOST_TAUGHT:]
    if not examples:
        return {}
    now, before = backbone.score(examples, "policy"), backbone.score(examples, _before(backbone))
    new = before < KNOWN_LOG_PROB
    found: dict[str, Any] = {
        "taught": len(examples),
        "taught_known": int((now >= KNOWN_LOG_PROB).sum()),
        "taught_new": int(new.sum()),
        "taught_forgotten": int((now[~new] < FORGOTTEN_LOG_PROB).sum()),
    }
    if found["taught_new"]:
        found["taught_new_log_prob"] = float(now[new].mean())
        found["taught_new_log_prob_before"] = float(before[new].mean())
    return found


def _before(backbone: Backbone) -> Role:
    return "parent" if backbone.has("parent") else "base"
