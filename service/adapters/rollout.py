"""The rollout: brings the engine to the desired state, and keeps it there.

Again and again it compares what the store wants (live, requested, canary) with what the engine really holds, and closes
the gap: check the folder, load it, prove with probes that it is served, and only then move the live pointer, in one
transaction. A restart of the engine, of the service or of both needs nothing more than the next comparison.

What goes wrong is somebody's. A broken folder or a failed proof is the adapter's: it is rejected with the reason, and
if it was live, the one before takes over. An adapter that was live before and is sound, but that this engine can't
serve (another base model, a smaller rank), is put aside, not rejected. An engine that is away, or not set up to load
adapters, says nothing about the adapter: the rollout notes what is wrong and tries again, more and more rarely.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.adapters.registry import Registry
from service.adapters.replica import AdapterEngine, NotServed, Replica
from service.errors import AdapterBroken, HoneError
from service.store.queries import adapters
from service.store.queries.adapters import BASE, ROLLOUT
from service.store.tables import Serving

LONGEST_PAUSE_SECONDS = 2.0
"""Between two tries while the engine is away."""

_log = logging.getLogger(__name__)


class Rollout:
    """The loop is `run`; `loaded` and `using` are for those who answer, `wake` for those who asked for a change."""

    def __init__(
        self,
        registry: Registry,
        engine: AdapterEngine,
        max_loras: int,
        reconcile_seconds: float = 0.5,
        keep_loaded: int = 2,
        probe_tolerance: float = 0.05,
        base_sha256: str | None = None,
    ) -> None:
        """`base_sha256`: the fingerprint of the engine's base, if known; adapters trained on another are refused."""
        self.problem: str | None = None  # why the desired state isn't reached, in words
        self._store = registry.store
        self._replica = Replica(registry, engine, max_loras, probe_tolerance, base_sha256)
        self._reconcile_seconds, self._keep_loaded = reconcile_seconds, keep_loaded
        self._woken = asyncio.Event()

    @property
    def loaded(self) -> frozenset[str]:
        """The adapters that the engine holds and has been proven to serve, as far as known."""
        return self._replica.loaded

    def wake(self) -> None:
        """Something was asked for: look now. Call it in the loop's thread."""
        self._woken.set()

    def forget_loaded(self) -> None:
        """The engine doesn't know an adapter that it should hold, so it has restarted: look now."""
        self._replica.forget()
        self.wake()

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[None]:
        """Hold an adapter (or `base`) loaded for as long as the block takes, loading it first if need be.

        Raises NotFound for an unknown name, AdapterBroken when it can't be served, EngineUnavailable.
        """
        if name != BASE and name not in self.loaded:
            async with self._replica.changing:
                await self._replica.look()
                await self._replica.bring(name)
        with self._replica.hold(name):
            yield

    async def run(self) -> None:
        """Reconcile until cancelled; nothing that goes wrong in one round ends the loop."""
        pause = self._reconcile_seconds
        while True:
            try:
                await self.reconcile()
                self.problem, pause = None, self._reconcile_seconds
            except HoneError as error:
                await self._report(str(error))
                pause = min(2 * pause, max(LONGEST_PAUSE_SECONDS, self._reconcile_seconds))
            except Exception:
                _log.exception("The rollout met a bug; it goes on.")
                self.problem, pause = "The rollout met a bug; see the log.", LONGEST_PAUSE_SECONDS
            try:
                async with asyncio.timeout(pause):  # `wait_for` loses a cancellation that comes just after a wake
                    await self._woken.wait()
                pause = self._reconcile_seconds
            except TimeoutError:
                pass
            self._woken.clear()

    async def reconcile(self) -> None:
        """One comparison, and all that follows from it. Raises EngineUnavailable, StoreError."""
        async with self._replica.changing:
            desired = await asyncio.to_thread(self._desired)
            await self._replica.look()
            await self._restore_live(desired.live)
            if desired.requested is not None:
                await self._fulfil(desired.requested)
            if desired.canary is not None:
                await self._bring_or_put_aside(desired.canary)
            desired = await asyncio.to_thread(self._desired)
            await self._replica.unload_spare(self._keep_loaded, first=(desired.previous,))

    async def _restore_live(self, name: str) -> None:
        """Put the live adapter back; while it can't be served, the one before it takes over, down to the base."""
        tried: set[str] = set()
        while name != BASE:
            tried.add(name)
            try:
                await self._replica.bring(name)
                return
            except AdapterBroken as error:
                name = await asyncio.to_thread(self._replace_live, name, error, tried)

    async def _fulfil(self, name: str) -> None:
        proof = "" if name == BASE else await self._bring_or_put_aside(name)
        if proof is not None:
            await asyncio.to_thread(self._flip, name, proof)

    async def _bring_or_put_aside(self, name: str) -> str | None:
        """Load and prove; the proof in words, or None when that failed through the adapter's own fault."""
        try:
            return await self._replica.bring(name)
        except AdapterBroken as error:
            await asyncio.to_thread(self._put_aside, name, error)
            return None

    def _desired(self) -> Serving:
        with self._store.read() as tx:
            desired = adapters.serving(tx)
        self._replica.wanted = frozenset(filter(None, (desired.live, desired.requested, desired.canary)))
        return desired

    def _flip(self, name: str, proof: str) -> None:
        with self._store.begin() as tx:
            if adapters.fulfil_request(tx, name, proof):
                _log.info("%s is live. %s", name, proof)

    def _put_aside(self, name: str, error: AdapterBroken) -> None:
        """Reject it; but if it has been live before and its folder is sound, only drop what was asked for."""
        _log.warning("%s", error)
        with self._store.begin() as tx:
            desired, adapter = adapters.serving(tx), adapters.get_adapter(tx, name)
            if isinstance(error, NotServed) and adapter is not None and adapter.state == "retired":
                if desired.requested == name:
                    adapters.clear_request(tx, str(error))
            else:
                adapters.set_state(tx, name, "rejected", ROLLOUT, str(error))

    def _replace_live(self, name: str, error: AdapterBroken, tried: set[str]) -> str:
        """Flip to what was live before, if that was not tried yet, else to the base; returns what is live now."""
        with self._store.begin() as tx:
            desired = adapters.serving(tx)
            if desired.live != name:
                return desired.live
            previous = adapters.get_adapter(tx, desired.previous)
            may_serve = previous is not None and previous.state == "retired" and previous.name not in tried
            successor = desired.previous if may_serve else BASE
            adapters.flip_live(tx, successor, ROLLOUT, f"{name} can't be served any more. {error}")
            if not isinstance(error, NotServed):
                adapters.set_state(tx, name, "rejected", ROLLOUT, str(error))
        _log.error("%s can't be served any more; %s is live. %s", name, successor, error)
        return successor

    async def _report(self, problem: str) -> None:
        """Log a problem once, and put it into the history of the adapter that waits because of it."""
        if problem == self.problem:
            return
        self.problem = problem
        _log.warning("The rollout waits: %s", problem)
        try:
            await asyncio.to_thread(self._note, problem)
        except HoneError as error:
            _log.warning("The rollout can't write that down: %s", error)

    def _note(self, problem: str) -> None:
        with self._store.begin() as tx:
            if (waiting := adapters.serving(tx).requested) is not None:
                adapters.note(tx, waiting, "waiting", problem)
