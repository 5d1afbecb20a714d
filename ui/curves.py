"""The curves of a run, from the lines of its `metrics.jsonl`: one small chart for each metric, all over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

COLUMNS = 3
CHARTS = 6  # at most
ROW_HEIGHT = 190  # pixels
LINE = {"train": "#4a7eb2", "sft": "#4a9a76", "dpo": "#4a7eb2", "evaluate": "#b07d2b"}
OTHER_LINE = "#8a7fb5"
INK = "#8b877e"  # reads on light and on dark
GRID = "rgba(139, 135, 126, 0.22)"
NO_METRIC = {"step", "steps", "phase", "epoch", "time", "at", "seconds", "elapsed", "tokens", "examples", "batch"}
FIRST = ("loss", "reward_accuracy", "reward_margin", "kl", "fluency", "worst_correction", "retention_kl", "accuracy")


def curves(metrics: Sequence[dict[str, Any]], title: str) -> go.Figure | None:
    """A figure, or None while there is nothing to draw. The lines of each phase form a line of their own."""
    names = metric_names(metrics)
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    titles = [name.replace("_", " ") for name in names]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.24 / rows)
    phases = list(dict.fromkeys(str(line.get("phase", "")) for line in metrics))
    starts = _starts(metrics, phases)
    seen: set[str] = set()  # phases that the legend names already
    for place, name in enumerate(names):
        for phase in phases:
            points = [(starts[phase] + line["step"], line[name]) for line in metrics if _has(line, name, phase)]
            if points:
                trace = _trace(phase, points, in_legend=phase not in seen)
                figure.add_trace(trace, row=place // COLUMNS + 1, col=place % COLUMNS + 1)
                seen.add(phase)
    return _styled(figure, rows, title, legend=len(seen) > 1)


def _starts(metrics: Sequence[dict[str, Any]], phases: list[str]) -> dict[str, int]:
    """Where each phase begins on the common axis: phases count their steps from one, and follow one another."""
    starts, begin = {}, 0
    for phase in phases:
        starts[phase] = begin
        begin += max((line.get("step", 0) for line in metrics if str(line.get("phase", "")) == phase), default=0)
    return starts


def metric_names(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """The numbers that the lines hold, the telling ones first."""
    found = dict.fromkeys(
        name for line in metrics for name, value in line.items() if name not in NO_METRIC and _is_number(value)
    )
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))[:CHARTS]


def _has(line: dict[str, Any], name: str, phase: str) -> bool:
    return str(line.get("phase", "")) == phase and _is_number(line.get(name)) and "step" in line


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _trace(phase: str, points: list[tuple[int, float]], in_legend: bool) -> go.Scatter:
    steps, values = zip(*points, strict=True)
    line = {"color": LINE.get(phase, OTHER_LINE), "width": 2}
    mode = "lines" if len(points) > 1 else "markers"
    return go.Scatter(
        x=steps,
        y=values,
        name=phase,
        legendgroup=phase,
        showlegend=in_legend,
        mode=mode,
        line=line,
        hovertemplate="step %{x}: %{y:.4g}<extra></extra>",
    )


def _styled(figure: go.Figure, rows: int, title: str, legend: bool) -> go.Figure:
    figure.update_layout(
        height=rows * ROW_HEIGHT + 70,
        title={"text": title, "x": 0.02, "y": 0.985, "yanchor": "top", "font": {"size": 13, "color": INK}},
        showlegend=legend,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yref": "container", "yanchor": "top"},
        margin={"l": 44, "r": 12, "t": 64, "b": 28},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 11, "family": "ui-sans-serif, -apple-system, Segoe UI, Roboto, sans-serif"},
        hoverlabel={"font": {"size": 12}},
    )
    figure.update_annotations(font={"size": 12, "color": INK})
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=GRID)
    return figure
