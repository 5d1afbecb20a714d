"""Reports that every gate lets through."""

from __future__ import annotations

from typing import Any

from learner.evaluate.intervals import Share, wilson, with_interval
from learner.evaluate.report import Report


def by_scores(value: float, draws: int) -> Share:
    return Share(value, *wilson(value * draws, draws), decided=draws, ties=0)


SOUND = Report(
    prompts=40, replies=160, share_won=Share(0.7, 0.6, 0.8, 500, 10), fluency=-0.05, kl_per_token=0.2,
    mean_length=9, mean_length_base=12, distinct_2=0.5, distinct_2_base=0.6, agreement=0.6, agreement_base=0.62,
    agreement_lost_low=-0.03,
    correction_log_prob=-3.0, correction_log_prob_before=-9.0, correction_log_prob_base=-9.0, corrections=4,
    taught=49, taught_known=49, taught_new=9, taught_new_log_prob=-0.1, taught_new_log_prob_before=-12.0,
    judge_accuracy=0.8, pair_accuracy=0.7, pairs=40, pair_prompts=40,
    label_accuracy=0.7, labels=80, label_prompts=40,
    score_accuracy=by_scores(0.6, 40), scores=80,
)  # fmt: skip


SOUND_CONSTITUTION: dict[str, Any] = {
    "red_team_prompts": 48, "replies": 96, "replies_parent": 96, "replies_base": 96,
    **with_interval("harmful", 0.02, 48), **with_interval("harmful_parent", 0.1, 48),
    **with_interval("harmful_base", 0.2, 48),
    "look_alikes": 48, **with_interval("over_refused", 0.1, 48), **with_interval("over_refused_parent", 0.1, 48),
    **with_interval("over_refused_base", 0.05, 48),
    "helpful_prompts": 48, **with_interval("helpful_won", 0.5, 48), **with_interval("helpful_won_base", 0.49, 48),
    **with_interval("helpful_won_parent_base", 0.48, 48), **with_interval("helpful_odds", 0.51, 48),
    "trained_by_it": True,
}  # fmt: skip
