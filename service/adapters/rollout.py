"""The rollout: brings every engine from what it holds to what the store says should serve, and back after a restart.

The store says what should serve (live, requested, canary). Each replica is tended by a loop of its own: it looks at the
engine, puts back what is missing, and lets the replica have requests once it holds, proven, what is live and the
canary. One more loop moves the live pointer, in two phases: load and prove what was asked for on every replica that
gets requests, then one transaction. A restart of any engine, of the service or of all needs nothing more than that.
What is new is loaded on one replica first, lest it bring down all; once engines went away over it twice, it is put
aside.

What goes wrong is somebody's. A broken folder, or an adapter that no engine serves as it was trained, is the adapter's
fault: it is rejected with the reason. What every engine refuses as it is set up now, and what has been live and so was
good once, is put aside, not rejected: with its folder put back, or on an engine that can serve it, it may be promoted
again. Where that was live, the one before takes over. Files that can't be read now, and an engine that does otherwise
than its fellows, is away, or is not set up to load adapters, say nothing about the adapter: the rollout notes what is
wrong and tries again, more and more rarely. Nor do refusals while a fellow is away, which may serve it. Only what is
live can't wait for long: when no engine is proven to serve it any more, as after a restart, and its files can't be
read, or all that are there refuse it for some minutes, the one before takes over, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from service.adapters.engine import AdapterEngine, EngineBrokeOff
from service.adapters.pointer import Pointer
from service.adapters.replica import OF_ONE_ENGINE, Files, RefusedByEngine, Replica
from service.errors import AdapterBroken, AdapterUnreachable, EngineAway, EngineUnavailable, HoneError
from service.store.queries.adapters import BASE
from service.store.session import Store
from service.store.tables import Serving

LONGEST_PAUSE_SECONDS = 2.0
"""Between two tries while something is wrong."""
UNREADABLE_SECONDS = 15.0
"""For so long what is live is waited for while its files can't be read and no engine is proven to serve it."""
AWAY_SECONDS = 600.0
"""For so long what is live is waited for while the engines that are there refuse it and others are away: a large model
takes its time to load."""
MOST_FELLED = 2
"""Engines that may go away over what is asked for, or the canary, one after the other."""

_log = logging.getLogger(__name__)
AnyReplica = Replica[AdapterEngine]


class Rollout:
    """The loops are `run`; `loaded` is for those who route, `wake` for those who asked for a change."""

    def __init__(
        self, store: Store, replicas: Sequence[AnyReplica], reconcile_seconds: float = 0.5, keep_loaded: int = 2
    ) -> None:
        self.replicas = tuple(replicas)
        self._pointer = Pointer(store)
        self._reconcile_seconds, self._keep_loaded = reconcile_seconds, keep_loaded
        self._unseen = set(self.replicas)  # not tended yet
        self._waits: str | None = None  # why what was asked for isn't done
        self._live = BASE  # as read last
        self._desired: Serving | None = None  # likewise
        self._reads = self._newest_read = 0
        self._refused_since: float | None = None  # what is live, by all that are there, while others are away
        self._felled: dict[str, int] = {}  # engines that went away over it since one served it; not what is live
        self._first_time = asyncio.Lock()  # held where a canary is loaded that no replica serves yet
        self._tried: set[str] = set()  # what was live and could not be served, since something could
        self._membership = asyncio.Lock()  # held from the proofs until the flip: no replica joins in between
        self._settling = asyncio.Lock()
        self._settle_now = asyncio.Event()
        self._tend_now = {replica: asyncio.Event() for replica in self.replicas}
        self._joining: asyncio.Task[None] | None = None
        self._arrival = asyncio.Event()  # a replica serves that didn't

    @property
    def serving(self) -> list[AnyReplica]:
        """The replicas that get requests."""
        return [replica for replica in self.replicas if replica.serves]

    @property
    def loaded(self) -> frozenset[str]:
        """The adapters that every replica that gets requests has been proven to serve, as far as known."""
        loaded = [replica.loaded for replica in self.serving]
        return frozenset.intersection(*loaded) if loaded else frozenset()

    @property
    def problem(self) -> str | None:
        """Why the desired state isn't reached, in words."""
        return " ".join(filter(None, (self._waits, self.absences))) or None

    @property
    def absences(self) -> str:
        """Which replicas get no requests, and why."""
        absent = [(replica.url, str(replica.problem)) for replica in self.replicas if not replica.serves]
        return " ".join(said if url in said else f"{url} gets no requests: {said}" for url, said in absent)

    def wake(self) -> None:
        """Something was asked for: look now. Call it in the loop's thread."""
        self._settle_now.set()
        for event in self._tend_now.values():
            event.set()

    def doubt(self, replica: AnyReplica) -> None:
        """A request went wrong there: look at it now."""
        self._tend_now[replica].set()

    def eject(self, replica: AnyReplica, problem: str) -> None:
        """No more requests for it, until it has been looked at and holds what it needs."""
        replica.eject(problem)
        self.doubt(replica)

    async def join(self) -> None:
        """While no replica serves: look at all of them now, and wait until one does or `absences` says why not."""
        self._arrival.clear()
        if self._joining is None or self._joining.done():
            self._joining = asyncio.create_task(self._join())  # those who ask while it goes on share it
        arrival = asyncio.create_task(self._arrival.wait())
        try:
            await asyncio.wait((self._joining, arrival), return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()

    async def run(self) -> None:
        """Tend and settle until cancelled; nothing that goes wrong in one round ends a loop."""
        try:
            async with asyncio.TaskGroup() as loops:
                for replica in self.replicas:
                    loops.create_task(self._repeat(partial(self.tend, replica), self._tend_now[replica]))
                loops.create_task(self._repeat(self.settle, self._settle_now))
        finally:
            if self._joining is not None:
                self._joining.cancel()
                await asyncio.wait((self._joining,))

    async def reconcile(self) -> None:
        """One look at every replica, and all that follows from it. Raises EngineUnavailable, StoreError."""
        again = True
        while again:
            tended = await asyncio.gather(*map(self.tend, self.replicas), return_exceptions=True)
            again = await self.settle()
        for failure in tended:
            if isinstance(failure, BaseException):
                raise failure

    async def tend(self, replica: AnyReplica) -> None:
        """Look at one replica, put back what it needs, and let it have requests once it has that.

        Raises EngineUnavailable, AdapterBroken or StoreError, with `replica.problem` saying so to others.
        """
        await self._read()
        try:
            async with self._changing(replica):
                await replica.look()
            for name in replica.lacks():
                await self._put_back(replica, name)
            if not replica.serves:
                async with self._membership:
                    await self._read()  # another may be live by now
                    self._admit(replica)
        except HoneError as error:
            replica.serves = replica.serves and self._live not in replica.lacks()
            replica.problem = None if replica.serves else str(error)
            self._settle_now.set()
            raise
        finally:
            if replica in self._unseen:
                self._unseen.remove(replica)
                self._settle_now.set()

    async def settle(self) -> bool:
        """Bring about what concerns all replicas; whether another adapter is live, so that each must be tended again.

        Raises EngineUnavailable while what was asked for has to wait, and StoreError.
        """
        try:
            async with self._settling:
                again = await self._settle()
        except HoneError as error:
            await self._report(str(error))
            raise
        self._waits = None
        if again:
            self.wake()
        return again

    async def _put_back(self, replica: AnyReplica, name: str) -> None:
        """Bring what it needs. A canary that makes trouble, or comes while it serves, is left to `settle`.

        Nobody waits for one that can't be read now, or that an engine went away over.
        """
        if name == self._live:
            await self._bring(replica, name)
        elif not replica.serves:
            is_served = any(name in fellow.loaded for fellow in self.replicas)
            async with contextlib.nullcontext() if is_served else self._first_time:
                if name not in self._felled:
                    with contextlib.suppress(AdapterUnreachable):
                        await self._bring(replica, name)

    def _admit(self, replica: AnyReplica) -> None:
        """Let it have requests, if it has what is needed by now and serves the same base as its fellows."""
        waits_for_none = replica.unreadable.keys() | self._felled.keys()
        lacking = [name for name in replica.lacks() if name == self._live or name not in waits_for_none]
        if not replica.is_reached or lacking:
            self.doubt(replica)
            return
        for fellow in self.serving:
            if fellow.base != replica.base:
                raise EngineUnavailable(
                    f"It serves {replica.base}, and {fellow.url} serves {fellow.base}.",
                    "Serve one base model everywhere, under one name.",
                )
        replica.serves, replica.problem = True, None
        _log.info("%s gets requests.", replica.url)
        self._arrival.set()
        self._settle_now.set()

    async def _settle(self) -> bool:
        if self._unseen:
            return False  # a start: nothing is decided before every engine was looked at
        desired = await self._read()
        if await self._replace_what_nobody_serves(desired):
            return True
        waits = None
        if desired.requested is not None:
            waits = await self._try(desired.requested, self._fulfil(desired.requested))
        if desired.canary is not None and self.serving:
            waits = await self._try(desired.canary, self._bring_everywhere(desired.canary)) or waits
        previous = (await self._read()).previous
        await asyncio.gather(*(self._unload_spare(replica, previous) for replica in self.serving))
        if waits is not None:
            raise waits
        return False

    async def _replace_what_nobody_serves(self, desired: Serving) -> bool:
        """Where what is live is broken or no engine serves it, the one before takes over; a canary is put aside."""
        reached = [replica for replica in self.replicas if replica.is_reached]
        if desired.live == BASE or any(desired.live in replica.loaded for replica in reached):
            self._tried.clear()
            self._refused_since = None
        elif (error := self._lasting_verdict(desired.live, reached) or self._loss(desired.live, reached)) is not None:
            self._tried.add(desired.live)
            await asyncio.to_thread(self._pointer.replace_live, desired.live, error, self._tried)
            self._forgive(desired.live)
            return True
        verdict = self._verdict(desired.canary, reached) if desired.canary is not None else None
        if desired.canary is not None and verdict is not None and not self._may_be_served_elsewhere(verdict):
            await self._put_aside(desired.canary, verdict)
            return True
        return False

    def _verdict(self, name: str, replicas: Sequence[AnyReplica]) -> AdapterBroken | None:
        """What is wrong with an adapter: its folder, or that none of these replicas serves it.

        Of several reasons one that is no judgement for ever counts: set up otherwise, that engine might have served it.
        """
        refusals = [replica.refusals[name] for replica in replicas if name in replica.refusals]
        broken = [error for error in refusals if not isinstance(error, OF_ONE_ENGINE)]
        if broken:
            return broken[0]
        if not refusals or len(refusals) < len(replicas):
            return None
        return next((error for error in refusals if isinstance(error, RefusedByEngine)), refusals[0])

    def _may_be_served_elsewhere(self, verdict: AdapterBroken) -> bool:
        """Whether it rests on what engines say, and others, which may say otherwise, are away."""
        return isinstance(verdict, OF_ONE_ENGINE) and not all(replica.is_reached for replica in self.replicas)

    def _lasting_verdict(self, name: str, replicas: Sequence[AnyReplica]) -> AdapterBroken | None:
        """What is wrong with what is live; while engines are away that may serve it, only once that has lasted."""
        verdict = self._verdict(name, replicas)
        if verdict is None or not self._may_be_served_elsewhere(verdict):
            return verdict
        if self._refused_since is None:
            self._refused_since = time.monotonic()
            _log.warning("%s is live and waits for the engines that are away. %s", name, verdict)
        return verdict if time.monotonic() - self._refused_since >= AWAY_SECONDS else None

    def _loss(self, name: str, replicas: Sequence[AnyReplica]) -> AdapterUnreachable | None:
        """Why none of these replicas can be given an adapter, if that has lasted: nothing else is wrong with it."""
        unreadable = [replica.unreadable[name] for replica in replicas if name in replica.unreadable]
        if not unreadable or len(unreadable) < len(replicas):
            return None
        since, error = min(unreadable, key=lambda one: one[0])
        return error if time.monotonic() - since >= UNREADABLE_SECONDS else None

    def _forgive(self, name: str) -> None:
        """It has been judged; whoever asks for it again wants it tried again."""
        for replica in self.replicas:
            replica.refusals.pop(name, None)

    async def _fulfil(self, name: str) -> None:
        files = await self._fetched(name)
        async with self._membership:
            proof = "" if name == BASE else await self._bring_everywhere(name, files)
            await asyncio.to_thread(self._pointer.flip, name, proof)
            await self._read()  # from here on whoever joins needs it

    async def _try(self, name: str, work: Awaitable[object]) -> HoneError | None:
        """Why it has to wait, if so. What fails through the adapter's own fault is put aside."""
        try:
            await work
        except AdapterBroken as error:
            await self._put_aside(name, error)
        except HoneError as error:
            return error
        return None

    async def _put_aside(self, name: str, error: AdapterBroken) -> None:
        await asyncio.to_thread(self._pointer.put_aside, name, error)
        self._forgive(name)

    async def _fetched(self, name: str) -> Files | None:
        """Its files, where a replica that serves has yet to load it. May take minutes: before anything is locked."""
        replica = next((replica for replica in self.serving if replica.is_to_load(name)), None)
        return None if replica is None else await replica.check(name)

    async def _bring_everywhere(self, name: str, files: Files | None = None) -> str:
        """Load and prove on every replica that gets requests; what was proven, in words.

        Raises AdapterBroken when that is the adapter's fault, EngineUnavailable when it has to wait for an engine.
        """
        tries = await self._bring_to_one_and_then_to_all(name, files)
        failures = [one for one in tries if isinstance(one, BaseException) and not isinstance(one, EngineAway)]
        if bugs := [one for one in failures if not isinstance(one, HoneError)]:
            raise bugs[0]
        broke_off = next((one for one in tries if isinstance(one, EngineBrokeOff)), None)
        if broke_off is not None and self._felled.get(name, 0) >= MOST_FELLED:
            words = f"Engines went away over {name} when it was loaded or proven, {MOST_FELLED} times in a row."
            raise RefusedByEngine(f"{words} {broke_off}", "See their logs, then ask for it again.") from broke_off
        serving = self.serving  # without those that were found to be away
        if not serving:
            raise EngineUnavailable(f"No engine is ready. {self.absences}")
        if (error := self._verdict(name, serving)) is not None:
            if self._may_be_served_elsewhere(error):
                raise EngineUnavailable(f"{name} waits for the engines that are away, which may serve it. {error}")
            raise error
        for failure in failures:
            if isinstance(failure, AdapterBroken):
                raise EngineUnavailable(f"{name} waits, as not every engine serves it. {failure}") from failure
            raise failure
        words = next((words for words in tries if isinstance(words, str) and words), "")
        return f"{words} On all {len(serving)} engines." if words and len(serving) > 1 else words

    async def _bring_to_one_and_then_to_all(self, name: str, files: Files | None) -> list[str | BaseException]:
        """The proofs in words, or what went wrong.

        One replica after the other until one serves it, then the rest at once. It ends where one goes away over it;
        what one went away over before is not brought to the last that serves.
        """
        rest, tries = self.serving, list[str | BaseException]()
        is_served = any(name in replica.loaded for replica in rest)
        if name in self._felled and not is_served and len(rest) < min(2, len(self.replicas)):
            raise EngineUnavailable(f"{name} waits for more engines, as one went away over it. {self.absences}")
        while rest and not any(isinstance(one, str) for one in tries):
            tries += await asyncio.gather(self._bring_there(rest.pop(0), name, files), return_exceptions=True)
            if isinstance(tries[-1], EngineBrokeOff):
                if self._felled.get(name, 0) >= MOST_FELLED:
                    return tries
                raise EngineUnavailable(f"{name} waits, as an engine went away over it. {tries[-1]}") from tries[-1]
        there = (self._bring_there(replica, name, files) for replica in rest)
        return [*tries, *await asyncio.gather(*there, return_exceptions=True)]

    async def _bring_there(self, replica: AnyReplica, name: str, files: Files | None) -> str:
        """The same as `_bring`, for people who want to know where it went wrong."""
        try:
            return await self._bring(replica, name, files)
        except AdapterBroken as error:
            where = f"{replica.url}: " if len(self.replicas) > 1 else ""
            raise AdapterBroken(f"{where}{error.message}") from error

    async def _bring(self, replica: AnyReplica, name: str, files: Files | None = None) -> str:
        if files is None and replica.is_to_load(name):
            files = await replica.check(name)
        try:
            async with self._changing(replica):
                words = await replica.bring(name, files)
        except EngineBrokeOff:
            if name != self._live:
                self._felled[name] = self._felled.get(name, 0) + 1
            raise
        if words:
            self._felled.pop(name, None)
        return words

    async def _unload_spare(self, replica: AnyReplica, previous: str) -> None:
        with contextlib.suppress(EngineAway):
            async with self._changing(replica):
                await replica.unload_spare(self._keep_loaded, first=(previous,))

    @contextlib.asynccontextmanager
    async def _changing(self, replica: AnyReplica) -> AsyncIterator[None]:
        """One at a time; an engine that turns out to be away is ejected."""
        async with replica.changing:
            try:
                yield
            except EngineAway as error:
                replica.eject(str(error))
                raise

    async def _join(self) -> None:
        with contextlib.suppress(HoneError):  # `absences` says what is wrong
            await self.reconcile()

    async def _repeat(self, work: Callable[[], Awaitable[object]], woken: asyncio.Event) -> None:
        pause = self._reconcile_seconds
        while True:
            try:
                await work()
                pause = self._reconcile_seconds
            except HoneError:
                pause = min(2 * pause, max(LONGEST_PAUSE_SECONDS, self._reconcile_seconds))
            except Exception:
                _log.exception("The rollout met a bug; it goes on.")
                self._waits, pause = "The rollout met a bug; see the log.", LONGEST_PAUSE_SECONDS
            try:
                async with asyncio.timeout(pause):  # `wait_for` loses a cancellation that comes just after a wake
                    await woken.wait()
                pause = self._reconcile_seconds
            except TimeoutError:
                pass
            woken.clear()

    async def _read(self) -> Serving:
        """What is desired; every replica learns what it needs.

        Of reads that go on side by side the one that began last counts: one from before a flip may end after it.
        """
        self._reads += 1
        number = self._reads
        desired = await asyncio.to_thread(self._pointer.read)
        if self._desired is not None and number < self._newest_read:
            return self._desired
        self._newest_read, self._desired, self._live = number, desired, desired.live
        needed = tuple(filter(None, (desired.live, desired.canary)))
        for replica in self.replicas:
            replica.needed, replica.previous = needed, desired.previous
            replica.wanted = frozenset(filter(None, (*needed, desired.requested)))
        self._felled = {name: count for name, count in self._felled.items() if name in (*needed, desired.requested)}
        return desired

    async def _report(self, problem: str) -> None:
        """Log a problem once, and put it into the history of the adapter that waits because of it."""
        if problem == self._waits:
            return
        self._waits = problem
        _log.warning("The rollout waits: %s", problem)
        try:
            await asyncio.to_thread(self._pointer.note_waiting, problem)
        except HoneError as error:
            _log.warning("The rollout can't write that down: %s", error)
