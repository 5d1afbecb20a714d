"""Draw the metrics of a run, step by step: a row of pictures or more for each phase, one picture for each metric."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

Curve = list[tuple[int, float]]

_PLACE = {"step", "steps", "phase"}
COLUMNS = 4
DOTS_PER_INCH = 90
UNITS = {
    "loss": "nats",
    "nll": "nats / token",
    "pretraining_nll": "nats / token",
    "listwise": "nats",
    "dpo": "nats",
    "reward_loss": "nats",
    "label_loss": "nats",
    "score_loss": "nats",
    "good_reward": "nats",
    "bad_reward": "nats",
    "chosen_reward": "nats",
    "rejected_reward": "nats",
    "reward_margin": "nats",
    "mean_reward": "nats",
    "reward_disagreement": "nats",
    "kl": "nats / token",
    "kl_per_token": "nats / token",
    "sampled_kl": "nats / token",
    "retention_kl": "nats / token",
    "step_kl": "nats / token",
    "approximate_kl": "nats / token",
    "kl_per_reply": "nats / reply",
    "reference_kl": "nats / reply",
    "entropy": "nats / token",
    "engine_gap": "nats / token",
    "surprise": "nats / token",
    "fluency": "nats / token",
    "worst_correction": "log-probability, nats",
    "reward_accuracy": "share of pairs",
    "label_accuracy": "share of labels",
    "score_outliers": "share of scores",
    "ended": "share of replies",
    "clip_fraction": "share of tokens",
    "value_clip_fraction": "share of tokens",
    "importance_capped": "share of tokens",
    "length": "tokens / reply",
    "left_out": "prompts",
    "ungraded": "replies",
    "skipped": "steps",
}
"""Of the metrics that have one; the others are plain numbers."""
OF_PHASE = {
    "sft": {"loss": "nats / token"},
    "sft again": {"loss": "nats / token"},
    "sl-cai": {"loss": "nats / token"},
    "raft": {"loss": "nats / token"},
    "kto": {"loss": ""},
    **{phase: {"loss": "", "kl": "nats / reply"} for phase in ("ppo", "reinforce", "rloo", "grpo")},
}
"""Where a phase has another unit for a metric, or none, than the others."""
LOSS_TERMS = ("nll", "dpo", "kto", "listwise", "reward_loss", "label_loss", "score_loss", "policy_loss")
"""What a phase's loss is made of. One that is all of it has no picture beside the loss's."""


def draw(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a PNG, whole or not at all. `metrics`: the lines of metrics.jsonl; without any, nothing is written."""
    curves = _curves(metrics)
    if not curves:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sum(math.ceil(len(metrics) / COLUMNS) for metrics in curves.values())
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(16, 2.8 * rows), constrained_layout=True, squeeze=False)
    row = 0
    for phase, of_phase in curves.items():
        places = axes[row : row + math.ceil(len(of_phase) / COLUMNS)].flat
        row += len(places) // COLUMNS
        place: Any
        metric: tuple[str, Curve]
        for place, metric in zip_longest(places, of_phase.items(), fillvalue=("", [])):
            _draw_one(place, phase, *metric)
    save_figure(figure, path, DOTS_PER_INCH)


def save_figure(figure: Any, path: Path, dots_per_inch: int) -> None:
    """Write a figure of matplotlib's as PNG, whole or not at all, and forget it."""
    from matplotlib import pyplot

    unfinished = path.with_name(path.name + ".partial")
    with unfinished.open("wb") as file:
        figure.savefig(file, dpi=dots_per_inch, format="png")
        file.flush()
        os.fsync(file.fileno())
    pyplot.close(figure)
    unfinished.replace(path)


def _draw_one(place: Any, phase: str, name: str, points: Curve) -> None:
    if not points:
        place.axis("off")
        return
    from matplotlib.ticker import MaxNLocator

    place.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < 20 else None)
    place.set_title(f"{phase}: {name.replace('_', ' ')}", fontsize=9)
    place.set_xlabel("step", fontsize=7)
    place.set_ylabel(OF_PHASE.get(phase, {}).get(name, UNITS.get(name, "")), fontsize=7)
    place.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    place.tick_params(labelsize=7)
    place.grid(alpha=0.25)


def _curves(metrics: Sequence[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Phase → metric → its finite values by step, in order of appearance. A loss of one term alone is there once."""
    curves: dict[str, dict[str, Curve]] = {}
    for line in metrics:
        for name, value in line.items():
            if name not in _PLACE and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(line["phase"], {}).setdefault(name, []).append((line["step"], float(value)))
    for of_phase in curves.values():
        for term in LOSS_TERMS:
            if _alike(of_phase.get(term, []), of_phase.get("loss", [])):
                of_phase.pop(term, None)
    return curves


def _alike(one: Curve, other: Curve) -> bool:
    """Whether they are the same, but for what float32 leaves of the same number in different sums."""
    return len(one) == len(other) and all(
        step == same_step and math.isclose(value, same, rel_tol=1e-4, abs_tol=1e-7)
        for (step, value), (same_step, same) in zip(one, other, strict=True)
    )
