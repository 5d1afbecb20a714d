"""Keeps the service's engines those that are wanted, while it runs: `hone engines` writes to the store which those are.

An engine that is added takes the way of one that restarted: it gets requests once it holds, proven, what is live, and
the canary. One that is removed gets no more, and what is under way there ends first; added again before that, it is
the same one, whose requests go on being counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from service.adapters.control_loop import control_loop
from service.adapters.replica import Replica
from service.adapters.rollout import Rollout
from service.replicas import EngineReplica
from service.settings.addresses import engine_at
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
        self._farewells: dict[Replica[Any], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            await control_loop(self.look, asyncio.Event(), self._look_seconds, lambda bug: None)
        finally:
            farewells = tuple(self._farewells.values())
            for farewell in farewells:
                farewell.cancel()
            await asyncio.gather(*farewells, return_exceptions=True)

    async def look(self) -> None:
        """Take in what was added, let go what was removed. Raises StoreError."""
        urls = await self._transactions.read(engines.wanted, self._named)
        wanted = {engine_at(url): url for url in urls}
        there = {engine_at(replica.url): replica for replica in self._rollout.replicas}
        for engine, url in wanted.items():
            if engine not in there:
                _log.warning("%s is one of the engines now.", url)
                self._rollout.take_in(await self._called_back(engine) or self._make(url))
        for engine, replica in there.items():
            if engine not in wanted:
                _log.warning("%s is none of the engines any more.", replica.url)
                self._farewells[replica] = asyncio.create_task(self._let_go(replica))

    async def _called_back(self, engine: tuple[str, int, str]) -> Replica[Any] | None:
        """The replica of that engine, if it was being let go and has requests under way still."""
        for replica in self._rollout.leaving:
            if engine_at(replica.url) == engine:
                farewell = self._farewells[replica]
                farewell.cancel()
                await asyncio.wait((farewell,))
                return replica
        return None

    async def _let_go(self, replica: Replica[Any]) -> None:
        try:
            await self._rollout.let_go(replica)
            await replica.engine.close()
            _log.warning("%s has no request under way any more.", replica.url)
        finally:
            del self._farewells[replica]
