"""The table and the picture of a simulation."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from service.errors import BadInput, SettingsError


def show_table(taste: str, rows: Sequence[dict[str, Any]], notes: Sequence[str], seconds: float) -> None:
    table = Table(
        title=f"taste {taste}, {seconds:.0f} s",
        caption="share won: held-out comparisons against the base; KL: to the base",
    )
    heads = ["round", "adapter", "won", "95 %", "ties", "accuracy", "base's", "fluency", "empty", "words", "distinct-2"]
    for head in [*heads, "KL/token", "requests", "failed", "broken"]:
        table.add_column(head, justify="left" if head == "adapter" else "right")
    for row in rows:
        interval = f"{row['share_won_low']:.0%}–{row['share_won_high']:.0%}"
        table.add_row(
            str(row["round"]), row["adapter"], f"{row['share_won']:.1%}", interval, str(row["ties"]),
            f"{row['accuracy']:.1%}", f"{row['accuracy_base']:.1%}", f"{row['fluency']:+.3f}", str(row["empty"]),
            f"{row['mean_length']:.1f}", f"{row['distinct_2']:.3f}", f"{row['kl_per_token']:.3f}",
            str(row["requests"]), str(row["failed"]), str(row["interrupted"]),
        )  # fmt: skip
    console = Console(width=max(Console().width, 150), markup=False)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def check_drawable(picture: Path) -> None:
    """Before a simulation has taken its minutes: raises BadInput when the picture could not be written there, and
    SettingsError when there is nothing to draw it with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingsError(
            "The picture of a simulation needs matplotlib, which is not installed here.",
            "pip install '.[learner]' in the project's folder.",
        )
    if picture.suffix != ".png":
        raise BadInput(f"The picture {picture} is no .png file.", "Name it so.")
    try:
        with tempfile.TemporaryFile(dir=picture.parent):
            pass
    except OSError as error:
        raise BadInput(f"Can't write to {picture.parent}: {error.strerror}.", "Choose another --picture.") from error


def draw_picture(taste: str, rows: Sequence[dict[str, Any]], path: Path, bounds_fluency: bool = True) -> None:
    """What was won, and beside it what it cost.

    `bounds_fluency`: whether the limit is drawn; facts that the base doesn't know are never fluent to it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    numbers = [row["round"] for row in rows]
    figure, (won, kept, cost) = pyplot.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    shares = [100 * row["share_won"] for row in rows]
    below = [100 * (row["share_won"] - row["share_won_low"]) for row in rows]
    above = [100 * (row["share_won_high"] - row["share_won"]) for row in rows]
    won.errorbar(numbers, shares, yerr=[below, above], marker="o", capsize=4)
    won.axhline(50, color="grey", linewidth=0.8, linestyle=":")
    won.set(title=f"“{Path(taste).name}”: share won against the base", ylabel="%", ylim=(0, 102))
    kept.plot(numbers, [100 * row["accuracy"] for row in rows], marker="o", label="adapter")
    kept.plot(numbers, [100 * row["accuracy_base"] for row in rows], linestyle=":", color="grey", label="base")
    kept.set(title="right answers", ylabel="%", ylim=(0, 102))
    kept.legend()
    for key, label in (("fluency", "fluency, nats/token"), ("kl_per_token", "KL to the base, nats/token")):
        cost.plot(numbers, [row[key] for row in rows], marker="o", label=label)
    if bounds_fluency:
        cost.axhline(-0.25, color="red", linewidth=0.8, linestyle=":", label="least fluency")
    cost.set(title="what it cost")
    cost.legend()
    for axes in (won, kept, cost):
        axes.set(xlabel="round", xticks=numbers)
    unfinished = path.with_name(path.name + ".partial")
    figure.savefig(unfinished, dpi=110, format="png")
    pyplot.close(figure)
    unfinished.replace(path)
