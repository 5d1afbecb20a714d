"""What one engine holds: adapters are loaded into it, proven, held while in use and unloaded when room is needed.

Only names of versions (`v12`) are touched; what else somebody loads into the same engine is theirs. One adapter changes
at a time. Those in use are never unloaded.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

from service.adapters.manifest import Manifest
from service.adapters.proof import judge
from service.adapters.registry import Registry
from service.errors import AdapterBroken, EngineRefused, EngineUnavailable
from service.store.queries.adapters import number_of


class LoadedModel(Protocol):
    """A model that the engine holds: the base (`parent` is None) or an adapter, under a name, from a path."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def parent(self) -> str | None: ...


class AdapterEngine(Protocol):
    """What the rollout needs of an engine (`service.engine.Engine`). All raise EngineUnavailable or EngineRefused."""

    async def models(self) -> Sequence[LoadedModel]: ...
    async def load_adapter(self, name: str, path: str) -> None: ...
    async def unload_adapter(self, name: str) -> None: ...
    async def score(self, model: str, prompt: Sequence[int], reply: Sequence[int]) -> Sequence[float]:
        """Natural log-probability of each token of `reply` under a model."""
        ...


class NotServed(AdapterBroken):
    """The folder is sound, but this engine doesn't serve it as it was trained."""


class Replica:
    """One engine's adapters. `look`, `bring`, `unload_spare` are for the rollout, one at a time (`changing`)."""

    def __init__(
        self,
        registry: Registry,
        engine: AdapterEngine,
        max_loras: int,
        probe_tolerance: float,
        base_sha256: str | None,
    ) -> None:
        self.changing = asyncio.Lock()
        self.wanted: frozenset[str] = frozenset()  # never unloaded to make room
        self._registry, self._engine = registry, engine
        self._max_loras, self._tolerance, self._base_sha256 = max_loras, probe_tolerance, base_sha256
        self._base = ""
        self._held: dict[str, str] = {}  # name → path, as the engine said last
        self._proven: dict[str, str] = {}  # likewise, of those that were proven since they were loaded
        self._users: Counter[str] = Counter()
        self._last_used: dict[str, int] = {}
        self._uses = count()

    @property
    def loaded(self) -> frozenset[str]:
        """The adapters that are loaded and proven, as far as known."""
        return frozenset(self._proven)

    def forget(self) -> None:
        """Trust nothing of what is known about the engine: it may have restarted."""
        self._proven.clear()

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Keep what is loaded from being unloaded."""
        self._users[name] += 1
        self._last_used[name] = next(self._uses)
        try:
            yield
        finally:
            self._users[name] -= 1

    async def look(self) -> None:
        """See what the engine really holds; what it holds no more is proven no more. Raises EngineUnavailable."""
        try:
            models = await self._engine.models()
        except EngineUnavailable:
            self.forget()
            raise
        self._base = next((model.name for model in models if model.parent is None), "")
        self._held = {model.name: model.path for model in models if model.parent is not None}
        self._proven = {name: path for name, path in self._proven.items() if self._held.get(name) == path}

    async def bring(self, name: str) -> str:
        """Have the engine serve an adapter, and prove that it does; the proof in words ("" if proven before).

        Call `look` first. Raises NotFound, AdapterBroken for its folder, NotServed when this engine can't serve it,
        EngineUnavailable when the engine is away, full or not set up for it.
        """
        if name in self._proven:
            return ""
        path, manifest = await asyncio.to_thread(self._registry.check, name)
        if self._base_sha256 not in (None, manifest.base.sha256):
            raise NotServed(
                f"{name} was trained on another base model ({manifest.base.name}) than the one that is served now.",
                "Serve that base, or learn again on this one.",
            )
        if name in self._held and self._held[name] != str(path):
            await self._unload(name)
        if name not in self._held:
            await self._make_room(name)
            await self._load(name, path)
        words = await self._prove(name, manifest)
        self._proven[name] = str(path)
        self._last_used[name] = next(self._uses)
        return words

    async def unload_spare(self, keep: int, first: Collection[str]) -> None:
        """Unload what is neither wanted nor in use, but for `keep`: those in `first`, then the last used."""
        spare = self._spare()
        spare.sort(key=lambda name: (name in first, self._last_used.get(name, -1)), reverse=True)
        for name in spare[keep:]:
            if not self._users[name]:
                await self._unload(name)

    def _spare(self) -> list[str]:
        ours = (name for name in self._held if number_of(name) is not None)
        return [name for name in ours if name not in self.wanted and not self._users[name]]

    async def _make_room(self, name: str) -> None:
        """Unload until one more fits, what was used longest ago first."""
        while len(self._held) >= self._max_loras:
            spare = [other for other in self._spare() if other != name]
            if not spare:
                raise EngineUnavailable(
                    f"All {self._max_loras} adapters that the engine can hold are in use.",
                    "Try again in a moment, or raise engine.max_loras.",
                    retry_after=1,
                )
            await self._unload(min(spare, key=lambda other: self._last_used.get(other, -1)))

    async def _load(self, name: str, path: Path) -> None:
        try:
            await self._engine.load_adapter(name, str(path))
        except EngineRefused as error:
            await self.look()
            if self._held.get(name) == str(path):
                return  # another service at the same engine was faster
            if error.status == 409:
                raise EngineUnavailable(f"The engine can't take {name} now: {error.message}", retry_after=1) from error
            if error.status == 404:
                raise EngineUnavailable(
                    f"The engine can't load {name} from {path}: {error.message}",
                    "It needs the adapters folder under the same path, and vLLM VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.",
                ) from error
            raise NotServed(f"The engine refused to load {name}: {error.message}") from error
        self._held[name] = str(path)

    async def _prove(self, name: str, manifest: Manifest) -> str:
        """Score the probes; the proof in words. What isn't served as it should be is unloaded again."""
        others = list(self._proven)
        try:
            adapter, base, *rest = [await self._score(model, manifest) for model in (name, self._base, *others)]
        except EngineRefused as error:
            if error.status == 404:
                self.forget()
                raise EngineUnavailable(f"The engine restarted while {name} was being proven.") from error
            raise NotServed(f"The engine refused to score the probes of {name}: {error.message}") from error
        verdict = judge(manifest.probes, adapter, base, dict(zip(others, rest, strict=True)), self._tolerance)
        if verdict.served:
            return verdict.words
        await self._unload(name)
        if verdict.engine_at_fault:
            raise EngineUnavailable(f"{name} can't be proven. {verdict.words}", "Check engine.model and engine.dtype.")
        raise NotServed(f"{name} isn't served as it was trained. {verdict.words}")

    async def _score(self, model: str, manifest: Manifest) -> Sequence[Sequence[float]]:
        scores = (self._engine.score(model, probe.prompt_token_ids, probe.token_ids) for probe in manifest.probes)
        return await asyncio.gather(*scores)

    async def _unload(self, name: str) -> None:
        self._proven.pop(name, None)  # before anything is awaited: from here on nobody may take hold of it
        try:
            await self._engine.unload_adapter(name)
        except EngineRefused as error:
            if error.status != 404:  # gone already is as good
                raise
        self._held.pop(name, None)
