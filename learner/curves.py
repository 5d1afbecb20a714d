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
    "listwise": "nats",
    "dpo": "nats",
    "good_reward": "nats",
    "bad_reward": "nats",
    "reference_kl": "nats",
    "kl": "nats / token",
    "sampled_kl": "nats / token",
    "retention_kl": "nats / token",
    "surprise": "nats / token",
    "fluency": "nats / token",
    "worst_correction": "log-probability, nats",
    "reward_margin": "nats",
    "chosen_reward": "nats",
    "rejected_reward": "nats",
    "reward_accuracy": "share of pairs",
    "judge_accuracy": "share of pairs",
    "skipped": "steps",
}
"""Of the metrics that have one; the others are plain numbers."""


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
    place.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < 20 else None)
    place.set_title(f"{phase}: {name.replace('_', ' ')}", fontsize=9)
    place.set_xlabel("step", fontsize=7)
    place.set_ylabel(UNITS.get(name, ""), fontsize=7)
    place.tick_params(labelsize=7)
    place.grid(alpha=0.25)


def _curves(metrics: Sequence[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Phase → metric → its finite values by step, in order of appearance."""
    curves: dict[str, dict[str, Curve]] = {}
    for line in metrics:
        for name, value in line.items():
            if name not in _PLACE and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(line["phase"], {}).setdefault(name, []).append((line["step"], float(value)))
    return curves
