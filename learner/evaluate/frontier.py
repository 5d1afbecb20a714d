"""Draw harmlessness against helpfulness: base, parent and candidate (Bai et al., arXiv 2212.08073, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.curves import save_figure

DOTS_PER_INCH = 110
AS_GOOD = 0.5
"""The share that replies win which are as good as the base's."""
LEAST_TO_EACH_SIDE, LEAST_DOWN = 0.05, 0.1
"""What the axes span at least, so that chance doesn't look like a trend."""
SIDES = {"base": ("", "_base", "0.45", 3), "parent": ("helpful_won_parent_base", "_parent", "tab:orange", 2),
         "candidate": ("helpful_won_base", "", "tab:blue", 1)}  # fmt: skip
"""Name → the report's figure of how helpful it is, the suffix of its other figures, its colour, and its size: rings of
their own size on lines of their own width, the candidate a dot, so that of those in one place all are seen."""
WHOLE_STEPS = (1, 2, 5, 10)
"""Between ticks, so that they are at whole numbers of percent, as they are labelled."""


@dataclass(frozen=True)
class Measured:
    """A share with its 95 % interval; what the report has no interval of is drawn without one."""

    value: float
    low: float
    high: float

    @property
    def arms(self) -> tuple[list[float], list[float]]:
        """How far the interval reaches down and up, as matplotlib wants it."""
        return [max(0.0, self.value - self.low)], [max(0.0, self.high - self.value)]  # rounding goes below 0


def points(found: Mapping[str, Any]) -> dict[str, tuple[Measured, Measured]]:
    """Name → (helpfulness: the share won against the base on harmless prompts; harmlessness: share of replies to
    red-team prompts in which the critique finds no harm). The base's helpfulness is a half by definition."""
    placed = {}
    for name, (helpful, suffix, _, _) in SIDES.items():
        x = _measured(found, helpful) if helpful else Measured(AS_GOOD, AS_GOOD, AS_GOOD)
        harmful = _measured(found, "harmful" + suffix)
        if x is not None and harmful is not None:
            placed[name] = x, Measured(1 - harmful.value, 1 - harmful.high, 1 - harmful.low)
    return placed


def limits(placed: Mapping[str, tuple[Measured, Measured]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the axes: helpfulness as far to either side of a half, harmlessness down from 1; all intervals have room."""
    aside = max(abs(end - AS_GOOD) for x, _ in placed.values() for end in (x.low, x.high))
    half = min(AS_GOOD, max(LEAST_TO_EACH_SIDE, 1.1 * aside))
    down = max(LEAST_DOWN, 1.1 * (1 - min(y.low for _, y in placed.values())))
    return (AS_GOOD - half, AS_GOOD + half), (max(0.0, 1 - down), 1.0)


def draw_frontier(found: Mapping[str, Any], path: Path) -> None:
    """Write a PNG, whole or not at all; nothing where not both the base and the candidate were measured."""
    placed = points(found)
    if not {"base", "candidate"} <= placed.keys():
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = pyplot.subplots(figsize=(6.5, 5), constrained_layout=True)
    axes.axvline(AS_GOOD, color="0.8", linewidth=1, zorder=1)
    middles = [(x.value, y.value) for x, y in placed.values()]
    axes.plot(*zip(*middles, strict=True), color="0.7", linewidth=1, linestyle=":", zorder=2)
    told = {}  # what the legend says → its mark there, without the bars
    for order, (name, (x, y)) in enumerate(placed.items()):
        _, _, colour, size = SIDES[name]
        drawn = axes.errorbar(
            x.value, y.value, xerr=x.arms, yerr=y.arms, fmt="o", markersize=2 + 5 * size, capsize=1.5 + 2.5 * size,
            elinewidth=1.1 * size, markeredgewidth=1.8, color=colour, markerfacecolor=colour if size == 1 else "none",
            clip_on=False, zorder=3 + order,
        )  # fmt: skip
        told[f"{name}: {100 * x.value:.1f} % helpful, {100 * y.value:.1f} % harmless"] = drawn.lines[0]
    across, up = limits(placed)
    axes.set_xlim(*across)
    axes.set_ylim(*up)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=7, steps=WHOLE_STEPS))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("helpfulness: share won against the base on harmless prompts, ties half")
    axes.set_ylabel("harmlessness: share of replies to red-team prompts\nin which the critique finds no harm")
    axes.set_title("Bars are 95 % intervals", fontsize=9, color="0.35", pad=12)
    figure.legend(told.values(), told.keys(), loc="outside lower center", fontsize=9, frameon=False, labelspacing=0.8)
    axes.grid(alpha=0.25)
    save_figure(figure, path, DOTS_PER_INCH)


def _measured(found: Mapping[str, Any], name: str) -> Measured | None:
    value = found.get(name)
    if value is None:
        return None
    return Measured(value, found.get(f"{name}_low", value), found.get(f"{name}_high", value))
