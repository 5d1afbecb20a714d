"""The store's clock: one place, so that every row's time is UTC and aware."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)
