"""The judge that goes with an adapter: the preference model of what a person can see, for whoever has no backbone.

It is fitted without the backbone's hidden states, so that the service can score replies by their texts and lengths
alone, whatever engine sampled them, and answer with the best of several (`service.chat.best_of`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from learner.backbone import Backbone
from learner.batch import Pair
from learner.methods.preference_model import fit_preferences
from service.adapters.judge import MOST_FEATURES, Judge

log = logging.getLogger("hone.learner")
DIGITS = 9
"""Significant ones of a weight: scores keep six, and the file is half as large."""


def fit_judge(backbone: Backbone, pairs: Sequence[Pair]) -> Judge | None:
    """Fitted to comparisons; None where there is no decided one, or they foretell each other no better than chance."""
    if all(pair.tie for pair in pairs):
        return None
    model = fit_preferences(backbone, pairs, hidden=False, most_features=MOST_FEATURES)
    log.info("The judge for best-of-N: %s", model.fit)
    weights = {
        group: {name: float(f"{weight:.{DIGITS}g}") for name, weight in of_group.items() if weight}
        for group, of_group in model.feature_weights().items()
    }
    if not any(weights.values()) or model.fit.log_score <= -math.log(2):
        return None
    facts = {"comparisons": model.fit.decided, "accuracy": model.fit.accuracy, "weights": weights}
    return Judge.model_validate(facts)
