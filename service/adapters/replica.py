"""One engine and its adapters: loaded into it, proven, held while in use and unloaded when room is needed.

A replica gets requests (`serves`) once it holds, proven, what is live, and the canary if it can; the rollout sees to
that, and takes it out (`eject`) when the engine is in doubt. From then on nothing that was known about it counts.

One adapter changes at a time. Names are never used again, and nothing is ever loaded in place: vLLM's prefix cache
knows an adapter by its name and path. Where both come back all the same, with other weights (a home was wiped, or a
database restored), the hash of the manifest keeps the two apart: it salts that cache.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from service.adapters.engine import AdapterEngine, EngineFacts, LoadedModel
from service.adapters.manifest import Manifest
from service.adapters.probing import Probing
from service.adapters.proof import Verdict
from service.adapters.refusals import ProofFailed, Refusals, not_loaded, not_proven, not_scored
from service.adapters.registry import Registry
from service.adapters.slots import Slots
from service.adapters.sound_files import Files, SoundFiles, nothing_more
from service.adapters.under_way import UnderWay
from service.errors import EngineAway, EngineRefused, EngineUnavailable, HoneError, sentences
from service.store.queries.adapters import BASE

LOOK_SECONDS = 5.0
"""In which an engine has to say what it holds; longer, and it is asked once more. Then it is away."""
E_co = TypeVar("E_co", bound=AdapterEngine, covariant=True)
_log = logging.getLogger(__name__)


class Replica(Generic[E_co]):
    """One engine. `look`, `bring`, `unload_spare` change what it holds: one at a time, under `changing`."""

    def __init__(
        self,
        registry: Registry,
        engine: E_co,
        max_loras: int,
        probe_tolerance: float = 0.05,
        when_told: Callable[[str, EngineFacts], None] = lambda url, facts: None,
        when_sound: Callable[[str, Files], Awaitable[object]] = nothing_more,
        allow_untold: bool = False,
        other_model: Callable[[EngineFacts], str | None] = lambda facts: None,
    ) -> None:
        """`when_told`: what to do with what the engine tells when it is reached, and when vLLM tells its slots;
        `when_sound`: what else to do, with the checked files, before an adapter is loaded; `allow_untold`: serve what
        changes too little for its probes; `other_model`: that the engine serves another than is asked for, in words."""
        self.changing = asyncio.Lock()
        self.needed: tuple[str, ...] = ()  # what it must hold to get requests
        self.serves = self.is_reached = False
        self.problem: str | None = "it has not been looked at yet"  # why it gets no requests
        self.other_model: str | None = None  # that it serves another than is asked for
        self.refusals = Refusals()
        self.requests, self.ejections = UnderWay(), 0
        self._engine, self._when_told, self._when_sound = engine, when_told, when_sound
        self._files, self._slots, self._facts = SoundFiles(registry), Slots(max_loras), EngineFacts("")
        self._tolerance, self._allow_untold, self._judge_model = probe_tolerance, allow_untold, other_model

    @property
    def engine(self) -> E_co:
        return self._engine

    @property
    def url(self) -> str:
        return self._engine.url

    @property
    def base(self) -> str:
        """The base model's name, as the engine knows it."""
        return self._facts.base

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its reply, as the engine says."""
        return self._facts.context

    @property
    def loaded(self) -> frozenset[str]:
        """The adapters that are loaded and proven, as far as known."""
        return frozenset(self._slots.proven)

    @property
    def under_way(self) -> int:
        return self.requests.count

    @property
    def slots(self) -> int:
        """How many adapters the engine may be made to hold."""
        return self._slots.size

    def want(self, needed: tuple[str, ...], requested: str | None, previous: str) -> None:
        """What is desired: it must hold what is `needed` to get requests, and `requested` is on its way to that."""
        self.needed = needed
        self._slots.wanted, self._slots.previous = frozenset(filter(None, (*needed, requested))), previous

    def lacks(self) -> list[str]:
        """What it needs and was not proven to hold."""
        return [name for name in self.needed if name != BASE and name not in self._slots.proven]

    def eject(self, problem: str) -> None:
        """No more requests, and trust nothing of what is known: the engine may be away, or have restarted."""
        if self.serves:
            _log.warning("%s gets no more requests: %s", self.url, problem)
        self.serves = self.is_reached = False
        self.problem, self.other_model = problem, None
        self.ejections += 1
        self._slots.proven.clear()
        self.refusals.clear()

    def wait(self, error: HoneError) -> None:
        """It gets no requests because of that, or because it serves another model: then the rest only follows."""
        other = self.other_model if self.other_model not in (None, error.message) else ""
        self.serves, self.problem = False, sentences(other or "", str(error))

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[None]:
        """Hold an adapter (or `base`) loaded for a request that takes as long as the block; load it first if need be.

        What only users ask for leaves a slot for what operators ask for next. Raises NotFound for an unknown name,
        AdapterBroken when it can't be served, AdapterUnreachable while it can't be read, EngineUnavailable.
        """
        with self.requests.one_more():
            if name != BASE and name not in self._slots.proven:
                files = await self.check(name) if self.is_to_load(name) else None
                async with self.changing:
                    await self.look()
                    await self.bring(name, files)
            else:
                self._slots.admit(name)
            with self._slots.using(name):
                yield

    async def look(self) -> None:
        """See how the engine is and what it really holds; what it holds no more is proven no more.

        Raises EngineAway, having ejected it, when the engine doesn't answer, isn't well or is no engine.
        """
        try:
            try:
                models = await self._see()
            except TimeoutError:  # busy it may be: it is asked twice
                models = await self._see()
        except (EngineUnavailable, EngineRefused) as error:
            self.eject(str(error))
            raise EngineAway(error.message, error.hint, retry_after=1) from error
        except TimeoutError as error:
            self.eject(f"it did not say within {LOOK_SECONDS:g} s what it holds, asked twice")
            raise EngineAway(f"The engine at {self.url} did not answer in time.", retry_after=1) from error
        if self.is_reached:
            await self._ask_for_slots()
        self.is_reached = True
        gone = self._slots.see({model.name: model.path for model in models if model.parent is not None})
        if lost := [name for name in self.needed if name in gone]:  # it has restarted
            self.serves, self.problem = False, f"it holds {', '.join(lost)} no more"
            _log.warning("%s gets no more requests: %s", self.url, self.problem)

    async def _see(self) -> Sequence[LoadedModel]:
        """What it holds, of one that is well. Raises EngineAway, TimeoutError."""
        async with asyncio.timeout(LOOK_SECONDS):
            models = await self._engine.models()
            if not await self._engine.is_healthy():
                raise EngineAway(f"The engine at {self.url} says that it isn't well.", "Look at its log.")
            if not self.is_reached:
                self._learn(await self._engine.facts())
        return models

    def is_to_load(self, name: str) -> bool:
        """Whether `bring` would have it loaded or proven: it was neither proven nor, lately, refused."""
        return name != BASE and name not in self._slots.proven and self.refusals.lately(name) is None

    async def check(self, name: str) -> Files:
        """The files that `bring` needs. To fetch them may take minutes: call it before anything is locked.

        Raises NotFound, AdapterBroken for the folder, AdapterUnreachable while that can't be read, and RefusedByEngine
        for an adapter of another base.
        """
        with self.refusals.noting(name):
            path, manifest = await self._files.of(name)
            self.refusals.was_read(name)
            await self._files.check_base(name, manifest)
        await self._when_sound(name, (path, manifest))
        return path, manifest

    async def bring(self, name: str, files: Files | None = None) -> str:
        """Have the engine serve an adapter, and prove that it does; the proof in words ("" if proven before).

        Call `look` first, and `check`, whose `files` these are. Raises as `check`, ProofFailed and RefusedByEngine when
        this engine can't serve it, EngineUnavailable when the engine is away or full, and EngineNotSetUp.
        """
        if name == BASE or name in self._slots.proven:
            return ""
        if (refusal := self.refusals.lately(name)) is not None:
            raise refusal
        path, manifest = files or await self.check(name)
        with self.refusals.noting(name):
            words = await self._have_it_served(name, path, manifest)
        self.refusals.forgive(name)
        self._slots.note_use(name)
        return words

    async def unload_spare(self, keep: int, first: Collection[str]) -> None:
        """Unload what is neither wanted nor in use, but for `keep`: those in `first`, then the last used."""
        for name in self._slots.too_many(keep, first):
            await self._unload(name)

    def _learn(self, facts: EngineFacts) -> None:
        self._facts, self._slots.told, self.other_model = facts, facts.slots, self._judge_model(facts)
        self._when_told(self.url, facts)

    async def _ask_for_slots(self) -> None:
        """vLLM with LoRA tells them once it has answered a request. Not to answer this is no sign of being unwell."""
        if self._facts.has_lora and self._facts.slots is None:
            with suppress(EngineUnavailable, EngineRefused, TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    facts = await self._engine.facts()
                if facts.slots is not None:
                    self._learn(facts)

    async def _have_it_served(self, name: str, path: Path, manifest: Manifest) -> str:
        if self._slots.held.get(name, str(path)) != str(path):
            await self._unload(name)
        was_held = name in self._slots.held
        try:
            return await self._load_and_prove(name, path, manifest)
        except ProofFailed:
            if not was_held:
                raise
        # vLLM outlives homes: what it held had this name and path in one that is gone. By now it is unloaded.
        return await self._load_and_prove(name, path, manifest)

    async def _load_and_prove(self, name: str, path: Path, manifest: Manifest) -> str:
        if name not in self._slots.held:
            await self._make_room(name)
        # vLLM frees the slot of what was unloaded only when another needs it, and takes whichever was used longest
        # ago. Asked for their scores before the load, those that are held still have been used, and what is gone goes.
        probing = Probing(self._engine, self.base, manifest)
        async with self._asking(name):
            await probing.ask_others([other for other in self._slots.proven if other in self._slots.held])
        if name not in self._slots.held:
            await self._load(name, path)
        async with self._asking(name):
            verdict = await probing.ask(self._tolerance)
        return await self._prove(name, manifest, verdict)

    async def _make_room(self, name: str) -> None:
        """Unload until one more fits, or raise EngineUnavailable."""
        self._slots.check_left(name)
        while (goes := self._slots.next_to_go(name)) is not None:
            await self._unload(goes)

    async def _load(self, name: str, path: Path) -> None:
        try:
            await self._engine.load_adapter(name, str(path))
        except EngineRefused as error:
            await self.look()
            if self._slots.held.get(name) == str(path):
                return  # another service at the same engine was faster
            raise not_loaded(name, path, error, self._facts.has_lora) from error
        self._slots.held[name] = str(path)

    async def _prove(self, name: str, manifest: Manifest, verdict: Verdict) -> str:
        """The proof in words. What isn't served as it should be, or might not be, is unloaded."""
        before = () if self._allow_untold else (BASE, *self.needed[:1])  # and what is live
        alike = await self._files.to_be_told_from(manifest, [one for one in verdict.untold if one in before])
        if verdict.served and not alike:
            self._slots.prove(name)
            return verdict.words
        await self._unload(name)
        raise not_proven(name, verdict, alike)

    @asynccontextmanager
    async def _asking(self, name: str) -> AsyncIterator[None]:
        """Raises EngineAway, having ejected it, where it turns out to have restarted; else what `not_scored` says."""
        try:
            yield
        except EngineRefused as error:
            if error.status != 404 or await self._holds_what_it_did():
                raise not_scored(name, error) from error
            self.eject(f"it has restarted: {error.message}")
            raise EngineAway(f"The engine restarted while {name} was being proven.", retry_after=1) from error

    async def _holds_what_it_did(self) -> bool:
        """Whether it lists all that it did, by the same names: an engine that has restarted doesn't."""
        return {self.base, *self._slots.held} <= {model.name for model in await self._engine.models()}

    async def _unload(self, name: str) -> None:
        self._slots.proven.pop(name, None)  # before anything is awaited: from here on nobody may take hold of it
        try:
            await self._engine.unload_adapter(name)
        except EngineRefused as error:
            if error.status != 404:  # gone already is as good
                raise
        self._slots.held.pop(name, None)
