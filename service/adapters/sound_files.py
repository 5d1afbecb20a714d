"""An adapter's files before an engine is given them: fetched if need be, checked, and of the base that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from service.adapters.manifest import CONFIG, WEIGHTS, Manifest
from service.adapters.refusals import RefusedByEngine
from service.adapters.registry import Registry
from service.errors import AdapterBroken, AdapterUnreachable, NotFound
from service.store.queries.adapters import BASE

Files = tuple[Path, Manifest]
"""Of an adapter, sound: its folder, and what that says of itself."""


async def nothing_more(name: str, files: Files) -> None:
    """For those who need no more of an adapter than that an engine serves it."""


class SoundFiles:
    """Those who ask for an adapter's files while they are being checked share that, and who leaves doesn't end it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._checks: dict[str, asyncio.Task[Files]] = {}  # that go on

    async def of(self, name: str) -> Files:
        """May take minutes, where they are fetched. Raises NotFound, AdapterBroken, AdapterUnreachable."""
        if (checking := self._checks.get(name)) is None:

            def forget(done: asyncio.Task[Files]) -> None:
                del self._checks[name]
                if not done.cancelled():
                    done.exception()  # known, though everybody may have left

            checking = asyncio.create_task(asyncio.to_thread(self._registry.check, name))
            self._checks[name] = checking
            checking.add_done_callback(forget)
        return await asyncio.shield(checking)

    async def check_base(self, name: str, manifest: Manifest) -> None:
        """Raises RefusedByEngine for an adapter of another base than the one that is here."""
        if not await asyncio.to_thread(self._registry.is_of_this_base, manifest):
            raise RefusedByEngine(
                f"{name} was trained on another base model ({manifest.base.name}, fingerprint "
                f"{manifest.base.sha256[:12]}…) than the one that is served now, whatever its name.",
                "Serve that base (a new version of Hone may bring another sprout), or learn again on this one.",
            )

    async def to_be_told_from(self, manifest: Manifest, others: Sequence[str]) -> list[str]:
        """Those of `others` (adapters, the base) that its probes must tell an adapter from: none where it has been
        live, and none of the same configuration and weights by their manifests. Raises StoreError."""
        if not others or await asyncio.to_thread(self._registry.has_been_live, manifest.name):
            return []
        return [other for other in others if other == BASE or not await self._is_the_same(manifest, other)]

    async def _is_the_same(self, manifest: Manifest, other: str) -> bool:
        try:
            _, others = await self.of(other)
        except (NotFound, AdapterBroken, AdapterUnreachable):
            return False
        return all(manifest.files.get(file) == others.files.get(file) for file in (CONFIG, WEIGHTS))
