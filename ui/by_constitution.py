"""What a report says by the constitution, as an operator reads it: candidate, parent and base beside each other, how
helpful the candidate stays, how far to trust who says so, and harmlessness against helpfulness as a picture.

A report that was not measured so has nothing of it, and a figure that it doesn't hold is left out; one that it holds
without a value, because there was nothing to measure, is a dash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ui.numbers import NONE, as_number, between, percent, points

Report = dict[str, Any]
ENDS = ("", "_low", "_high")
"""Behind a share's name: itself, and the ends of its 95 % interval."""


class Known(NamedTuple):
    """`meaning` may name counts of the report, in braces. `form`: how the number is written."""

    label: str
    meaning: str
    form: Callable[[float], str] = percent


COMPARED = {
    "harmful": Known("Harmful replies", "To red-team prompts ({red_team_prompts}), as a critique finds."),
    "refused_and_explained": Known("Refusals that say why", "To the same prompts: why not, or what else."),
    "refused_without_a_word": Known("Refusals without a reason", "To the same prompts."),
    "over_refused": Known("Help refused", "To harmless prompts that only look harmful ({look_alikes})."),
    "helpful": Known("Wins against the base", "On everyday questions ({helpful_prompts}); 50\u00a0% is as good."),
}
"""Of candidate, parent and base."""
ALONE = {
    "helpful_won": Known("Stays helpful", "Share won against what was there before; 50\u00a0% is as good."),
    "helpful_odds": Known("By the judge's mean odds", "The same pairs, each as sure as the judge is."),
    "judged_as_people": Known(
        "Its judge agrees with people", "On comparisons of theirs that were kept back ({peoples_pairs})."
    ),
    "position_bias": Known(
        "The base as judge leans to the first",
        "Below 0: to the second. Each pair is asked in both orders, which evens it out.",
        points,
    ),
    "critique_useful": Known(
        "Critiques are of use", "Of harmful replies ({critiqued}), revisions preferred to those without a critique."
    ),
}
"""Of the candidate, and of who judges it."""
OTHER_JUDGE = {
    "judged_as_people": Known(
        "Its own judge agrees with people",
        "{name}, whose verdicts it learned from; on comparisons of theirs that were kept back ({peoples_pairs}).",
    ),
    "position_bias": Known(
        "Its own judge leans to the first",
        "On {pairs} pairs of replies; {failed} of {questions} questions came to nothing. {trouble}",
        points,
    ),
}
"""Of the judge that the candidate learned from, where that isn't the base."""


def by_constitution(report: Report, name: str, parent: str | None) -> dict[str, Any] | None:
    """The part of the report of adapter `name`; None where nothing was measured by a constitution."""
    found = report.get("constitution")
    if not isinstance(found, dict):
        return None
    sides = {"": name, "_parent": parent or "parent", "_base": "base"}
    if not any(key.removesuffix("_base").endswith("_parent") for key in found):
        del sides["_parent"]
    return {
        "constitution": str(found.get("constitution", "")),
        "trained_by_it": bool(found.get("trained_by_it")),
        "sides": list(sides.values()),
        "compared": [row for one in COMPARED for row in _compared(found, one, list(sides))],
        "alone": [row for one in ALONE for row in _alone(found, one)] + _other_judge(found.get("judge")),
        "frontier": _frontier(found, sides),
    }


def _compared(found: Report, name: str, sides: list[str]) -> list[dict[str, Any]]:
    """A row of the table, and one for each principle that it was told apart by."""
    keys = [_key(name, side) for side in sides]
    if not any(key in found for key in keys):
        return []
    by_principle = [f"{name}_by_principle{side}" for side in sides]
    principles = dict.fromkeys(principle for key in by_principle for principle in _shares(found.get(key)))
    return [
        _row(found, name, COMPARED[name], keys),
        *(_principle(found, name, one, by_principle) for one in principles),
    ]


def _alone(found: Report, name: str) -> list[dict[str, Any]]:
    if name not in found:
        return []
    key = f"{name}_by_principle"
    by_principle = (_principle(found, name, one, [key]) for one in _shares(found.get(key)))
    return [_row(found, name, ALONE[name], [name]), *by_principle]


def _other_judge(judge: Any) -> list[dict[str, Any]]:
    if not isinstance(judge, dict):
        return []
    told = judge | {"trouble": judge.get("trouble") or ""}
    return [_row(told, one, known, [one]) | {"name": f"judge {one}"} for one, known in OTHER_JUDGE.items()]


def _key(name: str, side: str) -> str:
    """What the report calls a figure of one side; how helpful replies are is measured against the base's."""
    return f"helpful_won{side}_base" if name == "helpful" else name + side


def _row(found: Report, name: str, known: Known, keys: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "label": known.label,
        "meaning": known.meaning.format_map(_Counts(found)).strip(),
        **_numbers(found, keys, known.form),
    }


def _principle(found: Report, name: str, principle: str, keys: list[str]) -> dict[str, Any]:
    of_it = {f"{key}{end}": _shares(found.get(f"{key}{end}")).get(principle) for key in keys for end in ENDS}
    return {"name": name, "principle": principle, "label": principle, "meaning": "", **_numbers(of_it, keys, percent)}


def _numbers(found: Report, keys: list[str], form: Callable[[float], str]) -> dict[str, list[str]]:
    """Each figure and its 95 % interval, empty where that isn't known."""
    ends = [[as_number(found.get(f"{key}{end}")) for key in keys] for end in ENDS[1:]]
    return {
        "values": [_written(found.get(key), form) for key in keys],
        "intervals": [between(low, high) for low, high in zip(*ends, strict=True)],
    }


def _written(value: Any, form: Callable[[float], str]) -> str:
    number = as_number(value)
    return NONE if number is None else form(number)


def _shares(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class _Counts(dict[str, Any]):
    """Those of the report; one that it doesn't hold is a dash."""

    def __missing__(self, name: str) -> str:
        return NONE


def _frontier(found: Report, sides: dict[str, str]) -> list[dict[str, Any]]:
    """Who stands where, from the base on, each way as [value, low, high], ends of its 95 % interval; empty unless both
    the base and the candidate were measured. The base's share against itself is a half by definition."""
    placed = []
    for side in reversed(sides):
        helpful = [0.5] * 3 if side == "_base" else _measured(found, _key("helpful", side))
        if helpful and (harmful := _measured(found, "harmful" + side)):
            value, low, high = harmful
            place = side.removeprefix("_") or "candidate"
            placed.append(
                {"name": sides[side], "side": place, "helpful": helpful, "harmless": [1 - value, 1 - high, 1 - low]}
            )
    measured = {one["name"] for one in placed}
    return placed if {sides[""], sides["_base"]} <= measured else []


def _measured(found: Report, key: str) -> list[float]:
    """A share and the ends of its interval, the share itself where they aren't known; empty where there is none."""
    value = as_number(found.get(key))
    if value is None:
        return []
    low, high = (as_number(found.get(f"{key}_{end}")) for end in ("low", "high"))
    return [value, value if low is None else low, value if high is None else high]
