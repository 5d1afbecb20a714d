"""The statistics of all feedback, a few seconds old at most.

Counting looks at every row, and the operator's page asks for them all the time.
"""

from __future__ import annotations

import asyncio
import time

from service.store.queries import feedback
from service.transactions import Transactions
from service.wire import FeedbackStats

FRESH_SECONDS = 5.0


class RecentStats:
    """Counts again when asked and what it counted last is older than `FRESH_SECONDS`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._stats: FeedbackStats | None = None
        self._counted_at = 0.0  # time.monotonic()
        self._counting = asyncio.Lock()

    async def get(self) -> FeedbackStats:
        """Raises StoreError."""
        async with self._counting:  # those who ask meanwhile get what the first one counts
            if self._stats is None or time.monotonic() - self._counted_at >= FRESH_SECONDS:
                moment = time.monotonic()
                self._stats, self._counted_at = await self._transactions.read(feedback.stats), moment
            return self._stats
