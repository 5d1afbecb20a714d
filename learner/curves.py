"""Draw the metrics of a run, step by step: one row of pictures for each phase, one picture for each metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PLACE = {"step", "steps", "phase"}
COLUMNS = 4
DOTS_PER_INCH = 90


def draw(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a PNG, whole or not at all. `metrics`: the lines of metrics.jsonl; without any, nothing is written."""
    curves = _curves(metrics)
    if not curves:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = math.ceil(len(curves) / COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(16, 2.8 * rows), constrained_layout=True, squeeze=False)
    for place, ((phase, name), points) in zip(axes.flat, curves.items(), strict=False):
        place.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < 20 else None)
        place.set_title(f"{phase}: {name.replace('_', ' ')}", fontsize=9)
        place.tick_params(labelsize=7)
        place.grid(alpha=0.25)
    for place in axes.flat[len(curves) :]:
        place.axis("off")
    unfinished = path.with_name(path.name + ".partial")
    figure.savefig(unfinished, dpi=DOTS_PER_INCH, format="png")
    pyplot.close(figure)
    unfinished.replace(path)


def _curves(metrics: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(phase, metric) → its finite values by step, in order of appearance."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in metrics:
        for name, value in line.items():
            if name not in _PLACE and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault((line["phase"], name), []).append((line["step"], float(value)))
    return curves
