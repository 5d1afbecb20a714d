"""Numbers of a report as a person reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NONE = "–"
"""What stands where a number was not measured."""

PERCENT = "\u00a0%"
"""No line breaks between the number and it."""


def percent(value: float) -> str:
    return f"{100 * value:.1f}{PERCENT}"


def points(value: float) -> str:
    """Of a difference between two shares."""
    return f"{100 * value:+.1f} points"


def signed(value: float) -> str:
    return f"{value:+.3f}"


def plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def as_number(value: Any) -> float | None:
    """A number, or that of a share with its interval (`{"value", "low", "high", …}`); None for everything else."""
    if isinstance(value, dict):
        value = value.get("value")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def between(low: float | None, high: float | None, form: Callable[[float], str] = percent) -> str:
    """The 95 % interval of a figure; empty where it is not known."""
    return "" if low is None or high is None else f"{form(low).removesuffix(PERCENT)} to {form(high)}"
