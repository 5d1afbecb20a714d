"""Counts of things as people say them: 1 reply, 2 replies."""

from __future__ import annotations


def counted(count: int, one: str, more: str = "") -> str:
    """`one`: the noun of a single one; `more`: of several, where it isn't `one` and an s."""
    return f"{count} {one if count == 1 else more or one + 's'}"
