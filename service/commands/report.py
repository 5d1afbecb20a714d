"""A candidate's report as lines for a terminal: figures and gates, by the report's own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Line = tuple[str, str]  # label, text


def report_lines(report: Mapping[str, Any]) -> Iterator[Line]:
    """One line a figure and one a gate, the gates last: they are what decided. What was not measured is left out."""
    for name, value in report.items():
        if name != "gates" and (said := _in_words(value)):
            yield name.replace("_", " "), said
    for gate in report.get("gates", ()):
        yield f"gate: {gate['name']}", f"{'passed' if gate['passed'] else 'stopped it'}. {gate['reason']}".strip()


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        said = ((str(name).replace("_", " "), _in_words(inner)) for name, inner in value.items())
        return ", ".join(f"{name} ({inner})" if "," in inner else f"{name} {inner}" for name, inner in said if inner)
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_in_words, value)))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
