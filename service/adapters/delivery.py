"""Bringing an adapter to the replicas that get requests: loaded and proven on one first, lest it bring down all, then
on the rest at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection

from service.adapters.engine import EngineBrokeOff
from service.adapters.fleet import AnyReplica, Fleet
from service.adapters.refusals import RefusedByEngine
from service.adapters.sound_files import Files
from service.errors import AdapterBroken, EngineAway, EngineUnavailable, HoneError

MOST_FELLED = 2
"""Engines that may go away over what is asked for, or the canary, one after the other."""
_log = logging.getLogger(__name__)


class Delivery:
    """What the rollout brings adapters with; it remembers over which of them engines went away."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._felled: dict[str, int] = {}  # engines that went away over it since one served it; not what is live
        self._first_time = asyncio.Lock()  # held where a canary is loaded that no replica serves yet

    def has_felled(self, name: str) -> bool:
        """Whether an engine went away over it, and none has served it since."""
        return name in self._felled

    def forget_all_but(self, names: Collection[str | None]) -> None:
        """Nobody asks for the others any more."""
        self._felled = {name: count for name, count in self._felled.items() if name in names}

    async def fetched(self, name: str) -> Files | None:
        """Its files, where a replica that serves has yet to load it. May take minutes: before anything is locked."""
        replica = next((replica for replica in self._fleet.serving if replica.is_to_load(name)), None)
        return None if replica is None else await replica.check(name)

    async def to_all(self, name: str, files: Files | None = None) -> str:
        """Load and prove on every replica that gets requests; what was proven, in words.

        Raises AdapterBroken when that is the adapter's fault, EngineUnavailable when it has to wait for an engine.
        """
        tries = await self._to_one_and_then_to_all(name, files)
        failures = [one for one in tries if isinstance(one, BaseException) and not isinstance(one, EngineAway)]
        if bugs := [one for one in failures if not isinstance(one, HoneError)]:
            raise bugs[0]
        broke_off = next((one for one in tries if isinstance(one, EngineBrokeOff)), None)
        if broke_off is not None and self._felled.get(name, 0) >= MOST_FELLED:
            words = f"Engines went away over {name} when it was loaded or proven, {MOST_FELLED} times in a row."
            raise RefusedByEngine(f"{words} {broke_off}", "See their logs, then ask for it again.") from broke_off
        serving = self._fleet.serving  # without those that were found to be away
        if not serving:
            raise EngineUnavailable(f"No engine is ready. {self._fleet.absences}")
        if (error := self._fleet.verdict(name, serving)) is not None:
            if self._fleet.may_be_served_elsewhere(error):
                raise EngineUnavailable(f"{name} waits for the engines that are away, which may serve it. {error}")
            raise error
        for failure in failures:
            if isinstance(failure, AdapterBroken):
                raise EngineUnavailable(f"{name} waits, as not every engine serves it. {failure}") from failure
            raise failure
        words = next((words for words in tries if isinstance(words, str) and words), "")
        return f"{words} On all {len(serving)} engines." if words and len(serving) > 1 else words

    async def to_one(self, replica: AnyReplica, name: str, files: Files | None = None) -> str:
        """Load and prove there, unless it is; what was proven, in words. An engine that goes away over it counts."""
        if files is None and replica.is_to_load(name):
            files = await replica.check(name)
        try:
            async with changing(replica):
                words = await replica.bring(name, files)
        except EngineBrokeOff:
            if name != self._fleet.live:
                self._felled[name] = self._felled.get(name, 0) + 1
            raise
        if words:
            self._felled.pop(name, None)
        return words

    async def put_back(self, replica: AnyReplica, name: str) -> None:
        """Bring what it needs. A canary that makes trouble, or comes while it serves, is left to `to_all`: only few get
        it, and nobody is to go without the others for it."""
        if name == self._fleet.live:
            await self.to_one(replica, name)
            return
        if replica.serves:
            return
        async with contextlib.nullcontext() if self._fleet.is_served(name) else self._first_time:
            if self.has_felled(name):
                return
            try:
                await self.to_one(replica, name)
            except EngineAway:
                raise
            except HoneError as error:
                _log.warning("%s goes without the canary %s for now. %s", replica.url, name, error)

    async def unload_spare(self, keep: int, previous: str) -> None:
        """On every replica that gets requests, unload what is neither wanted nor in use, but for `keep`: what was live
        before, then the last used."""

        async def there(replica: AnyReplica) -> None:
            with contextlib.suppress(EngineAway):
                async with changing(replica):
                    await replica.unload_spare(keep, first=(previous,))

        await asyncio.gather(*map(there, self._fleet.serving))

    async def _to_one_and_then_to_all(self, name: str, files: Files | None) -> list[str | BaseException]:
        """The proofs in words, or what went wrong.

        One replica after the other until one serves it, then the rest at once. It ends where one goes away over it;
        what one went away over before is not brought to the last that serves.
        """
        fleet = self._fleet
        rest, tries = fleet.serving, list[str | BaseException]()
        is_served = any(name in replica.loaded for replica in rest)
        if self.has_felled(name) and not is_served and len(rest) < min(2, len(fleet.replicas)):
            raise EngineUnavailable(f"{name} waits for more engines, as one went away over it. {fleet.absences}")
        while rest and not any(isinstance(one, str) for one in tries):
            tries += await asyncio.gather(self._there(rest.pop(0), name, files), return_exceptions=True)
            if isinstance(tries[-1], EngineBrokeOff):
                if self._felled.get(name, 0) >= MOST_FELLED:
                    return tries
                raise EngineUnavailable(f"{name} waits, as an engine went away over it. {tries[-1]}") from tries[-1]
        there = (self._there(replica, name, files) for replica in rest)
        return [*tries, *await asyncio.gather(*there, return_exceptions=True)]

    async def _there(self, replica: AnyReplica, name: str, files: Files | None) -> str:
        """The same as `to_one`, for people who want to know where it went wrong."""
        try:
            return await self.to_one(replica, name, files)
        except AdapterBroken as error:
            where = f"{replica.url}: " if len(self._fleet.replicas) > 1 else ""
            raise AdapterBroken(f"{where}{error.message}", error.hint) from error


@contextlib.asynccontextmanager
async def changing(replica: AnyReplica) -> AsyncIterator[None]:
    """What it holds changes by one at a time; an engine that turns out to be away is ejected."""
    async with replica.changing:
        try:
            yield
        except EngineAway as error:
            replica.eject(str(error))
            raise
