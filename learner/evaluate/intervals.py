"""Intervals of what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

Z = 1.959964
"""Of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Share:
    """A share of comparisons won, ties left out, with its 95 % interval; None where nothing was decided."""

    value: float | None
    low: float | None
    high: float | None
    decided: int
    ties: int


def with_interval(name: str, value: float | None, draws: int) -> dict[str, float | None]:
    """A share, or mean odds, with its 95 % interval under `…_low` and `…_high`; None of nothing that was measured.

    draws: how many are independent. Replies to one prompt, or pairs of them, go together and are one: the widest that
    the interval can be (a design effect of their number: Kish 1965, Survey Sampling, section 5.4).
    """
    low, high = (None, None) if value is None else wilson(value * draws, draws)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for a share (Wilson 1927); (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    share, weight = successes / trials, Z * Z / trials
    centre = (share + weight / 2) / (1 + weight)
    half = Z * sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
