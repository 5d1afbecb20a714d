"""Keeps the service's engines those that are wanted, while it runs: `hone engines` writes to the store which those are.

An engine that is added takes the way of one that restarted: it gets requests once it holds, proven, what is live, and
the canary. One that is removed gets no more, and what is under way there ends first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from service.adapters.control_loop import control_loop
from service.adapters.rollout import Rollout
from service.replicas import EngineReplica
from service.store.queries import engines
from service.transactions import Transactions

_log = logging.getLogger(__name__)


class EngineList:
    def __init__(
        self,
        transactions: Transactions,
        named: Sequence[str],
        rollout: Rollout,
        make: Callable[[str], EngineReplica],
        look_seconds: float,
    ) -> None:
        """`named`: the URLs that the settings name; `make`: a replica for a URL; `look_seconds`: between two looks."""
        self._transactions, self._named, self._rollout = transactions, tuple(named), rollout
        self._make, self._look_seconds = make, look_seconds
        self._farewells: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            await control_loop(self.look, asyncio.Event(), self._look_seconds, lambda bug: None)
        finally:
            for farewell in self._farewells:
                farewell.cancel()
            await asyncio.gather(*self._farewells, return_exceptions=True)

    async def look(self) -> None:
        """Take in what was added, let go what was removed. Raises StoreError."""
        wanted = await self._transactions.read(engines.wanted, self._named)
        there = {replica.url: replica for replica in self._rollout.replicas}
        for url in wanted:
            if url not in there:
                _log.warning("%s is one of the engines now.", url)
                self._rollout.take_in(self._make(url))
        for url, replica in there.items():
            if url not in wanted:
                _log.warning("%s is none of the engines any more.", url)
                farewell = asyncio.create_task(self._let_go(replica))  # type: ignore[arg-type]  # made by `make`
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)

    async def _let_go(self, replica: EngineReplica) -> None:
        await self._rollout.let_go(replica)
        await replica.engine.close()
        _log.warning("%s has no request under way any more.", replica.url)
