"""A candidate's report as an operator reads it: each figure with a name, a number worth reading, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


class Known(NamedTuple):
    """`base` names the report's figure of the bare base model, to be read beside."""

    label: str
    form: Callable[[float], str]
    meaning: str
    base: str = ""


KNOWN: dict[str, Known] = {
    "share_won": Known("Won against its parent", _percent, "Share of held-out comparisons, ties left out"),
    "share_won_base": Known("Won against the base", _percent, "Share of held-out comparisons, ties left out"),
    "judge_accuracy": Known("Judge's accuracy", _percent, "Of the preference model that compared, on held-out pairs"),
    "pair_accuracy": Known("Pairs told apart", _percent, "Held-out pairs whose preferred reply gained more"),
    "fluency": Known("Fluency", _signed, "Nats per token that the base gives its replies, less what it gives its own"),
    "kl_per_token": Known("KL to the anchor", _plain, "On its own replies, in nats per token"),
    "empty_share": Known("Empty replies", _percent, "Share of its replies that hold nothing"),
    "unfinished_share": Known("Cut replies", _percent, "Share cut at the length limit", "unfinished_share_base"),
    "mean_length": Known("Mean length", _plain, "Words per reply", "mean_length_base"),
    "distinct_2": Known("Distinct-2", _plain, "Share of word pairs that are distinct", "distinct_2_base"),
    "agreement": Known("Agreement", _plain, "With the base's answers to held-out questions", "agreement_base"),
    "correction_log_prob": Known("Corrections", _plain, "Mean log-probability, in nats", "correction_log_prob_base"),
}
BESIDE = {known.base for known in KNOWN.values()}
NO_FIGURE = {"attempt"}


def figures(report: dict[str, Any]) -> list[dict[str, str]]:
    """The report's numbers, those that are known here first; texts, samples and the gates are left to others."""
    found = {name: value for name, value in report.items() if _number(value) is not None and name not in NO_FIGURE}
    ordered = [name for name in KNOWN if name in found]
    ordered += [name for name in found if name not in KNOWN and name not in BESIDE]
    return [_figure(name, report) for name in ordered]


def _figure(name: str, report: dict[str, Any]) -> dict[str, str]:
    known = KNOWN.get(name) or Known(name.replace("_", " ").capitalize(), _plain, "")
    value, base = report[name], _number(report.get(known.base))
    return {
        "name": name,
        "label": known.label,
        "value": known.form(_number(value) or 0),
        "interval": _interval(value, known.form),
        "base": "" if base is None else known.form(base),
        "meaning": known.meaning,
    }


def _interval(value: Any, form: Callable[[float], str]) -> str:
    """A share comes with its 95 % interval: `{"value", "low", "high", …}`."""
    low, high = (_number(value.get(end)) for end in ("low", "high")) if isinstance(value, dict) else (None, None)
    return "" if low is None or high is None else f"{form(low).removesuffix(' %')} to {form(high)}"


def _number(value: Any) -> float | None:
    if isinstance(value, dict):
        value = value.get("value")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def gates(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The gate's rules: which passed, which did not, and why."""
    return [
        {"name": str(gate.get("name", "")), "passed": bool(gate.get("passed")), "reason": str(gate.get("reason", ""))}
        for gate in report.get("gates") or ()
        if isinstance(gate, dict)
    ]
