"""One engine and its adapters: loaded into it, proven, held while in use and unloaded when room is needed.

A replica gets requests (`serves`) once it holds, proven, what is live, and the canary if it can; the rollout sees to
that, and takes it out (`eject`) when the engine is in doubt. From then on nothing that was known about it counts.

Only names of versions (`v12`) are touched; what else somebody loads into the same engine is theirs. One adapter changes
at a time. Those in use are never unloaded, names are never used again, and nothing is ever loaded in place: vLLM's
prefix cache knows an adapter by its name and path. Where both come back all the same, with other weights, in a home
that was wiped or from a restored database, the manifest's hash keeps the two apart: it salts that cache.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Generic, TypeVar

from service.adapters.engine import AdapterEngine, EngineFacts, LoadedModel, score_all
from service.adapters.manifest import Manifest
from service.adapters.proof import Logprobs, judge
from service.adapters.registry import Registry
from service.errors import AdapterBroken, AdapterUnreachable, EngineAway, EngineRefused, EngineUnavailable
from service.store.queries.adapters import BASE, number_of

LOOK_SECONDS = 5.0
"""In which an engine has to say what it holds; longer, and it is asked once more. Then it is away."""
REFUSAL_SECONDS = 30.0
"""For so long an engine that doesn't serve an adapter isn't made to load it again, which holds up its requests."""

Files = tuple[Path, Manifest]
"""Of an adapter, sound: its folder, and what that says of itself."""
E_co = TypeVar("E_co", bound=AdapterEngine, covariant=True)
_log = logging.getLogger(__name__)


class ProofFailed(AdapterBroken):
    """The folder is sound and this engine has loaded it, but doesn't serve it as it was trained."""


class RefusedByEngine(AdapterBroken):
    """This engine won't have it as it is set up now. Set up otherwise it may, so that is no judgement for ever."""


OF_ONE_ENGINE = (ProofFailed, RefusedByEngine)
"""What is wrong with an adapter at one engine. Any other AdapterBroken is about its folder."""


class EngineNotSetUp(EngineUnavailable):
    """This engine can load no adapters at all, or doesn't see their folder."""


async def nothing_more(name: str, files: Files) -> None:
    """For those who need no more of an adapter than that an engine serves it."""


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
    ) -> None:
        """`when_told`: what to do with what the engine tells when it is reached, and when vLLM tells its slots;
        `when_sound`: what else to do before an adapter is loaded and so can answer, with its checked files."""
        self.changing = asyncio.Lock()
        self.needed: tuple[str, ...] = ()  # what it must hold to get requests
        self.wanted: frozenset[str] = frozenset()  # never unloaded to make room
        self.previous = BASE  # unloaded to make room only when nothing else can go
        self.serves = False
        self.is_reached = False
        self.problem: str | None = "it has not been looked at yet"  # why it gets no requests
        self.refusals: dict[str, AdapterBroken] = {}  # by adapter: why it can't be served
        self.unreadable: dict[str, tuple[float, AdapterUnreachable]] = {}  # likewise: since when (monotonic), and why
        self.under_way = 0
        self.ejections = 0
        self._registry, self._engine, self._when_told, self._when_sound = registry, engine, when_told, when_sound
        self._max_loras, self._tolerance = max_loras, probe_tolerance
        self._facts = EngineFacts("")
        self._held: dict[str, str] = {}  # name → path, as the engine said last
        self._proven: dict[str, str] = {}  # likewise, of those that were proven since they were loaded
        self._refused_at: dict[str, float] = {}
        self._checks: dict[str, asyncio.Task[Files]] = {}  # that go on
        self._users: Counter[str] = Counter()
        self._last_used: dict[str, int] = {}
        self._uses = count()

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
        return frozenset(self._proven)

    @property
    def slots(self) -> int:
        """How many adapters the engine may be made to hold: what the settings say, and never more than it says."""
        return min(self._max_loras, self._facts.slots or self._max_loras)

    def lacks(self) -> list[str]:
        """What it needs and was not proven to hold."""
        return [name for name in self.needed if name != BASE and name not in self._proven]

    def eject(self, problem: str) -> None:
        """No more requests, and trust nothing of what is known: the engine may be away, or have restarted."""
        if self.serves:
            _log.warning("%s gets no more requests: %s", self.url, problem)
        self.serves = self.is_reached = False
        self.problem = problem
        self.ejections += 1
        self._proven.clear()
        self.refusals.clear()
        self.unreadable.clear()
        self._refused_at.clear()

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[None]:
        """Hold an adapter (or `base`) loaded for a request that takes as long as the block; load it first if need be.

        What only users ask for leaves a slot for what operators ask for next (`_is_left_a_slot`). Raises NotFound for
        an unknown name, AdapterBroken when it can't be served, AdapterUnreachable while its files can't be read,
        EngineUnavailable.
        """
        self.under_way += 1
        try:
            if name != BASE and name not in self._proven:
                files = await self.check(name) if self.is_to_load(name) else None
                async with self.changing:
                    await self.look()
                    await self.bring(name, files)
            elif not (self._users[name] or name in (BASE, self.previous) or self._is_left_a_slot(name)):
                raise self._full("in use, or kept for what operators ask for")
            self._users[name] += 1
            self._last_used[name] = next(self._uses)
            try:
                yield
            finally:
                self._users[name] -= 1
        finally:
            self.under_way -= 1

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
        self._held = {model.name: model.path for model in models if model.parent is not None}
        self._forget({name for name, path in self._proven.items() if self._held.get(name) != path})

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
        return name != BASE and name not in self._proven and not self._was_refused_lately(name)

    async def check(self, name: str) -> Files:
        """The files that `bring` needs. To fetch them may take minutes: call it before anything is locked.

        Raises NotFound, AdapterBroken for the folder, AdapterUnreachable while that can't be read, and RefusedByEngine
        for an adapter of another base.
        """
        with self._noting(name):
            path, manifest = await self._sound(name)
            self.unreadable.pop(name, None)
            if not await asyncio.to_thread(self._registry.is_of_this_base, manifest):
                raise RefusedByEngine(
                    f"{name} was trained on another base model ({manifest.base.name}, fingerprint "
                    f"{manifest.base.sha256[:12]}…) than the one that is served now, whatever its name.",
                    "Serve that base (a new version of Hone may bring another sprout), or learn again on this one.",
                )
        await self._when_sound(name, (path, manifest))
        return path, manifest

    async def bring(self, name: str, files: Files | None = None) -> str:
        """Have the engine serve an adapter, and prove that it does; the proof in words ("" if proven before).

        Call `look` first, and `check`, whose `files` these are. Raises as `check`, ProofFailed and RefusedByEngine when
        this engine can't serve it, EngineUnavailable when the engine is away or full, and EngineNotSetUp.
        """
        if name == BASE or name in self._proven:
            return ""
        if self._was_refused_lately(name):
            raise self.refusals[name]
        path, manifest = files or await self.check(name)
        with self._noting(name):
            words = await self._have_it_served(name, path, manifest)
        self.refusals.pop(name, None)
        self._last_used[name] = next(self._uses)
        return words

    async def unload_spare(self, keep: int, first: Collection[str]) -> None:
        """Unload what is neither wanted nor in use, but for `keep`: those in `first`, then the last used.

        Fewer are kept where the engine has fewer slots, which may be known only since it holds them.
        """
        spare = self._spare()
        spare.sort(key=lambda name: (name in first, self._age(name)), reverse=True)
        room = max(0, self.slots - len(self._held) + len(spare))
        for name in spare[min(keep, room) :]:
            if not self._users[name]:
                await self._unload(name)

    def _learn(self, facts: EngineFacts) -> None:
        self._facts = facts
        self._when_told(self.url, facts)

    async def _ask_for_slots(self) -> None:
        """vLLM with LoRA tells them once it has answered a request. Not to answer this is no sign of being unwell."""
        if self._facts.has_lora and self._facts.slots is None:
            with suppress(EngineUnavailable, EngineRefused, TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    facts = await self._engine.facts()
                if facts.slots is not None:
                    self._learn(facts)

    def _forget(self, names: Collection[str]) -> None:
        """The engine holds these no more. Without one that it needs, it has restarted and gets no requests."""
        for name in names:
            del self._proven[name]
        if lost := [name for name in self.needed if name in names]:
            self.serves, self.problem = False, f"it holds {', '.join(lost)} no more"
            _log.warning("%s gets no more requests: %s", self.url, self.problem)

    def _spare(self) -> list[str]:
        ours = (name for name in self._held if number_of(name) is not None)
        return [name for name in ours if name not in self.wanted and not self._users[name]]

    def _age(self, name: str) -> tuple[int, int]:
        """Grows with the last use; what was not used since this service started goes by its number."""
        return self._last_used.get(name, -1), number_of(name) or 0

    def _was_refused_lately(self, name: str) -> bool:
        since = self._refused_at.get(name, float("-inf"))
        return name in self.refusals and time.monotonic() - since < REFUSAL_SECONDS

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Remember why an adapter can't be served."""
        try:
            yield
        except AdapterBroken as error:
            self.unreadable.pop(name, None)
            self.refusals[name] = error
            if isinstance(error, OF_ONE_ENGINE):
                self._refused_at[name] = time.monotonic()
            raise
        except AdapterUnreachable as error:
            since, _ = self.unreadable.get(name, (time.monotonic(), error))
            self.unreadable[name] = (since, error)
            raise

    async def _sound(self, name: str) -> Files:
        """Those who ask while the files are being checked share that; who leaves doesn't end it."""
        if (checking := self._checks.get(name)) is None:

            def forget(done: asyncio.Task[Files]) -> None:
                del self._checks[name]
                if not done.cancelled():
                    done.exception()  # known, though everybody may have left

            checking = asyncio.create_task(asyncio.to_thread(self._registry.check, name))
            self._checks[name] = checking
            checking.add_done_callback(forget)
        return await asyncio.shield(checking)

    async def _have_it_served(self, name: str, path: Path, manifest: Manifest) -> str:
        self._engine.salt_cache(name, manifest.hash())
        if name in self._held and self._held[name] != str(path):
            await self._unload(name)
        was_held = name in self._held
        try:
            return await self._load_and_prove(name, path, manifest)
        except ProofFailed:
            if not was_held:
                raise
        # vLLM outlives homes: what it held had this name and path in one that is gone. By now it is unloaded.
        return await self._load_and_prove(name, path, manifest)

    async def _load_and_prove(self, name: str, path: Path, manifest: Manifest) -> str:
        if name not in self._held:
            await self._make_room(name)
        # vLLM frees the slot of what was unloaded only when another needs it, and takes whichever was used longest
        # ago. Asked for their scores before the load, those that are held still have been used, and what is gone goes.
        others = [other for other in self._proven if other in self._held]
        scores = {other: await self._score(name, other, manifest) for other in (self.base, *others)}
        if name not in self._held:
            await self._load(name, path)
        own = await self._score(name, name, manifest)
        return await self._prove(name, manifest, own, scores)

    async def _make_room(self, name: str) -> None:
        """Unload until one more fits: what was used longest ago first, and what was live before last."""
        if not self._is_left_a_slot(name):
            raise self._full("in use, or kept for what operators ask for")
        while len(self._held) >= self.slots:
            spare = [other for other in self._spare() if other != name]
            if not spare:
                raise self._full("in use")
            await self._unload(min(spare, key=lambda other: (other == self.previous, self._age(other))))

    def _is_left_a_slot(self, name: str) -> bool:
        """Whether with this one in use, too, operators can still have loaded what they want, and one more.

        That one more slot, free or of something that can be unloaded at once, is not kept from the first of all that
        only users ask for: with the fewest slots (live, canary and one) a version is served on demand all the same, and
        what operators ask for while it is waits for it to end.
        """
        if name in self.wanted:
            return True
        bound = set(self._held) - set(self._spare()) - {name}
        to_come = sum(other != BASE and other not in self._held for other in self.wanted)
        is_first = not any(self._users[other] for other in bound - self.wanted)
        return len(bound) + 1 + (to_come if is_first else max(to_come, 1)) <= self.slots

    def _full(self, how: str) -> EngineUnavailable:
        told = self._facts.slots
        mend = "raise engine.max_loras" if told in (None, self.slots) else "start it with a larger --max-loras"
        return EngineUnavailable(
            f"All {self.slots} adapters that the engine can hold are {how}.",
            f"Try again in a moment, or {mend}.",
            retry_after=1,
        )

    async def _load(self, name: str, path: Path) -> None:
        try:
            await self._engine.load_adapter(name, str(path))
        except EngineRefused as error:
            await self.look()
            if self._held.get(name) == str(path):
                return  # another service at the same engine was faster
            if error.status == 409:
                raise EngineUnavailable(f"The engine can't take {name} now: {error.message}", retry_after=1) from error
            if error.status == 404 or self._facts.has_lora is False:
                raise EngineNotSetUp(
                    f"The engine can't load {name} from {path}: {error.message}",
                    "It needs the adapters folder under the same path, and vLLM --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.",
                ) from error
            raise RefusedByEngine(
                f"The engine refused to load {name}: {error.message}",
                "Mend that at the engine, then ask for the adapter again.",
            ) from error
        self._held[name] = str(path)

    async def _prove(self, name: str, manifest: Manifest, own: Logprobs, scores: dict[str, Logprobs]) -> str:
        """Hold the scores against the trainer's; the proof in words. What isn't served as it should be is unloaded."""
        others = {other: logprobs for other, logprobs in scores.items() if other != self.base}
        verdict = judge(manifest.probes, own, scores[self.base], others, self._tolerance)
        if verdict.served:
            self._proven[name] = self._held[name]
            return verdict.words
        await self._unload(name)
        if verdict.engine_at_fault:
            raise EngineUnavailable(f"{name} can't be proven. {verdict.words}", "Check engine.model and engine.dtype.")
        raise ProofFailed(f"{name} isn't served as it was trained. {verdict.words}")

    async def _score(self, name: str, model: str, manifest: Manifest) -> Logprobs:
        """The probes of adapter `name` under `model`."""
        try:
            texts = [(probe.prompt_token_ids, probe.token_ids) for probe in manifest.probes]
            return await score_all(self._engine, model, texts)
        except EngineRefused as error:
            if error.status == 404:
                self.eject(f"it knows {model} no more: it has restarted")
                raise EngineAway(f"The engine restarted while {name} was being proven.", retry_after=1) from error
            raise RefusedByEngine(f"The engine refused to score the probes of {name}: {error.message}") from error

    async def _unload(self, name: str) -> None:
        self._proven.pop(name, None)  # before anything is awaited: from here on nobody may take hold of it
        try:
            await self._engine.unload_adapter(name)
        except EngineRefused as error:
            if error.status != 404:  # gone already is as good
                raise
        self._held.pop(name, None)
