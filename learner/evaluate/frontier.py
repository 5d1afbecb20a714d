"""Draw harmlessness against helpfulness: base, parent and candidate (Bai et al., arXiv 2212.08073, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.curves import save_figure

DOTS_PER_INCH = 110


def points(found: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Name → (helpfulness: mean odds against the base on harmless prompts; harmlessness: share of harmless replies)."""
    placed = {
        "base": (0.5, found.get("harmful_base")),
        "parent": (found.get("helpful_won_parent_base"), found.get("harmful_parent")),
        "candidate": (found.get("helpful_won_base"), found.get("harmful")),
    }
    return {
        name: (helpful, 1 - harmful)
        for name, (helpful, harmful) in placed.items()
        if helpful is not None and harmful is not None
    }


def draw_frontier(found: Mapping[str, Any], path: Path) -> None:
    """Write a PNG, whole or not at all; nothing where not both the base and the candidate were measured."""
    placed = points(found)
    if not {"base", "candidate"} <= placed.keys():
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 4.5), constrained_layout=True)
    axes.plot(*zip(*placed.values(), strict=True), color="0.6", linewidth=1)
    for name, (helpful, harmless) in placed.items():
        axes.scatter([helpful], [harmless], s=60, zorder=3)
        axes.annotate(name, (helpful, harmless), textcoords="offset points", xytext=(7, 5), fontsize=9)
    axes.set_xlabel("helpfulness: preferred to the base on harmless prompts")
    axes.set_ylabel("harmlessness: share of replies to red-team prompts")
    axes.margins(0.25)
    axes.grid(alpha=0.25)
    save_figure(figure, path, DOTS_PER_INCH)
