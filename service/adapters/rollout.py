"""The rollout: brings every engine from what it holds to what the store says should serve, and back after a restart.

The store says what should serve (live, requested, canary). Each replica is tended by a loop of its own: it looks at the
engine, puts back what is missing, and lets the replica have requests once it holds, proven, what is live, and the
canary unless that makes trouble. One more loop moves the live pointer, in two phases: load and prove what was asked for
on every replica that gets requests, then one transaction. A restart of any engine, of the service or of all needs
nothing more than that.

An adapter that is at fault (`fleet` says when it is) is rejected with the reason. What every engine refuses as it is
set up now, what engines went away over twice, and what has been live and so was good once, is put aside, not rejected:
with its folder put back, or on an engine that can serve it, it may be promoted again. Where that was live, the one
before takes over. Of anything else that goes wrong the rollout makes a note and tries again, more and more rarely. Only
what is live can't wait for long: when no engine is proven to serve it any more, as after a restart, and its files can't
be read, or all that are there refuse it for some minutes, the one before takes over, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from service.adapters.control_loop import control_loop
from service.adapters.delivery import Delivery, changing
from service.adapters.fleet import AnyReplica, Fleet
from service.adapters.pointer import Pointer
from service.adapters.replica_loops import ReplicaLoops
from service.adapters.waiting import Waiting
from service.errors import AdapterBroken, HoneError
from service.store.queries.adapters import BASE
from service.store.session import Store
from service.store.tables import Serving

_log = logging.getLogger(__name__)


class Rollout:
    """The loops are `run`; `loaded` is for those who route, `wake` for those who asked for a change."""

    def __init__(
        self, store: Store, replicas: Sequence[AnyReplica], reconcile_seconds: float = 0.5, keep_loaded: int = 2
    ) -> None:
        self._fleet = Fleet(replicas)
        self._delivery = Delivery(self._fleet)
        self._pointer = Pointer(store)
        self._reconcile_seconds, self._keep_loaded = reconcile_seconds, keep_loaded
        self._unseen = set(replicas)  # not tended yet
        self._waiting = Waiting(self._pointer)
        self._trouble: str | None = None  # what else is wrong
        self._desired: Serving | None = None  # as read last
        self._reads = self._newest_read = 0
        self._tried: set[str] = set()  # what was live and could not be served, since something could
        self._membership = asyncio.Lock()  # held from the proofs until the flip: no replica joins in between
        self._settling = asyncio.Lock()
        self._settle_now = asyncio.Event()
        self._loops = ReplicaLoops(replicas, self.tend, self._repeat)
        self._joining: asyncio.Task[None] | None = None
        self._arrival = asyncio.Event()  # a replica serves that didn't

    @property
    def replicas(self) -> tuple[AnyReplica, ...]:
        """All that may get requests, once they are fit for it."""
        return self._fleet.replicas

    @property
    def leaving(self) -> tuple[AnyReplica, ...]:
        """Those that were let go and have requests under way."""
        return self._fleet.leaving

    @property
    def serving(self) -> list[AnyReplica]:
        """The replicas that get requests."""
        return self._fleet.serving

    @property
    def loaded(self) -> frozenset[str]:
        """The adapters that every replica that gets requests has been proven to serve, as far as known."""
        return self._fleet.loaded

    @property
    def problem(self) -> str | None:
        """Why the desired state isn't reached, in words."""
        return " ".join(filter(None, (*self.problems, self.absences))) or None

    @property
    def problems(self) -> list[str]:
        """The same without `absences`: what waits, and why, and what else is wrong."""
        return [*self._waiting.reasons, *filter(None, (self._trouble,))]

    @property
    def absences(self) -> str:
        """Which replicas get no requests, and why."""
        return self._fleet.absences

    def wake(self) -> None:
        """Something was asked for: look now. Call it in the loop's thread."""
        self._settle_now.set()
        self._loops.wake()

    def doubt(self, replica: AnyReplica) -> None:
        """A request went wrong there: look at it now."""
        self._loops.wake(replica)

    def eject(self, replica: AnyReplica, problem: str) -> None:
        """No more requests for it, until it has been looked at and holds what it needs."""
        replica.eject(problem)
        self.doubt(replica)

    def take_in(self, replica: AnyReplica) -> None:
        """One more, or one that was being let go: it gets requests once it holds, proven, what it needs."""
        self._fleet.take_in(replica)
        self._loops.add(replica)

    async def let_go(self, replica: AnyReplica) -> None:
        """One less: it gets no more requests. Returns once those under way have ended, and nobody speaks to it."""
        self._fleet.take_out(replica)
        self._unseen.discard(replica)
        replica.eject("it was taken out; what is under way there goes on")
        await self._loops.end(replica)
        self._settle_now.set()
        await replica.requests.none_left()
        async with self._settling, replica.changing:
            self._fleet.forget(replica)

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
                self._loops.run(loops)
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
            async with changing(replica):
                await replica.look()
            if not replica.serves:
                self._fleet.check_model(replica)
            for name in replica.lacks():
                await self._delivery.put_back(replica, name)
            if not replica.serves:
                async with self._membership:
                    await self._read()  # another may be live by now
                    self._admit(replica)
        except HoneError as error:
            if not replica.serves or self._fleet.live in replica.lacks():
                replica.wait(error)
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
                again, waiting = await self._settle()
        except HoneError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                _log.warning("The rollout can't go on: %s", error)
            raise
        self._trouble = None
        await self._waiting.note(waiting)
        if again:
            self.wake()
        if waiting:
            raise next(iter(waiting.values()))
        return again

    def _admit(self, replica: AnyReplica) -> None:
        """Let it have requests, if it has what is needed by now; else look again."""
        if self._fleet.admit(replica):
            self._arrival.set()
            self._settle_now.set()
        else:
            self.doubt(replica)

    async def _settle(self) -> tuple[bool, dict[str, HoneError]]:
        """Whether another adapter is live, and what has to wait, and why."""
        waiting: dict[str, HoneError] = {}
        if self._unseen:
            return False, waiting  # a start: nothing is decided before every engine was looked at
        desired = await self._read()
        if await self._replace_what_nobody_serves(desired):
            return True, waiting
        if (name := desired.requested) is not None:
            await self._try(name, self._fulfil(name), waiting)
        if (name := desired.canary) is not None and self.serving:
            await self._try(name, self._delivery.to_all(name), waiting)
        await self._delivery.unload_spare(self._keep_loaded, (await self._read()).previous)
        return False, waiting

    async def _replace_what_nobody_serves(self, desired: Serving) -> bool:
        """Where what is live is broken or no engine serves it, the one before takes over; a canary is put aside."""
        fleet, live = self._fleet, desired.live
        if (error := fleet.why_lost()) is not None:
            self._tried.add(live)
            await asyncio.to_thread(self._pointer.replace_live, live, error, self._tried)
            fleet.forgive(live)
            return True
        if live == BASE or fleet.is_served(live):
            self._tried.clear()
        verdict = fleet.verdict(desired.canary, fleet.reached) if desired.canary is not None else None
        if desired.canary is not None and verdict is not None and not fleet.may_be_served_elsewhere(verdict):
            await self._put_aside(desired.canary, verdict)
            return True
        return False

    async def _fulfil(self, name: str) -> None:
        files = await self._delivery.fetched(name)
        async with self._membership:
            proof = "" if name == BASE else await self._delivery.to_all(name, files)
            await asyncio.to_thread(self._pointer.flip, name, proof)
            await self._read()  # from here on whoever joins needs it

    async def _try(self, name: str, work: Awaitable[object], waiting: dict[str, HoneError]) -> None:
        """Put down in `waiting` why it has to wait, if so. What fails through the adapter's own fault is put aside."""
        try:
            await work
        except AdapterBroken as error:
            await self._put_aside(name, error)
        except HoneError as error:
            waiting[name] = error

    async def _put_aside(self, name: str, error: AdapterBroken) -> None:
        await asyncio.to_thread(self._pointer.put_aside, name, error)
        self._fleet.forgive(name)

    async def _join(self) -> None:
        with contextlib.suppress(HoneError):  # `absences` says what is wrong
            await self.reconcile()

    async def _repeat(self, work: Callable[[], Awaitable[object]], woken: asyncio.Event) -> None:
        def met(bug: str) -> None:
            self._trouble = bug

        await control_loop(work, woken, self._reconcile_seconds, met)

    async def _read(self) -> Serving:
        """What is desired; every replica learns what it needs.

        Of reads that go on side by side the one that began last counts: one from before a flip may end after it.
        """
        self._reads += 1
        number = self._reads
        desired = await asyncio.to_thread(self._pointer.read)
        if self._desired is not None and number < self._newest_read:
            return self._desired
        self._newest_read, self._desired = number, desired
        self._fleet.want(desired)
        self._delivery.forget_all_but((desired.live, desired.canary, desired.requested))
        return desired
