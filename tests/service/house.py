"""A registry, engines in memory, and a service's rollout between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from service.adapters.engine import EngineFacts
from service.adapters.registry import Registry
from service.adapters.replacement import replacement
from service.adapters.replica import Replica
from service.adapters.rollout import Rollout
from service.store.queries import adapters, serving
from service.store.tables import Adapter, Serving
from tests.fixtures.adapters import MemoryEngine, provenance

Body = Callable[[], Coroutine[Any, Any, None]]


def other_model(facts: EngineFacts) -> str | None:
    """Whatever is called sprout, if only among other things, is the model that is asked for."""
    return None if "sprout" in facts.base else f"It serves another model: {facts.base}; engine.model is sprout."


class House:
    """`engine` and `replica` are the first, and mostly the only ones."""

    def __init__(self, registry: Registry, source: Path, engines: int = 1) -> None:
        self.registry, self.source = registry, source
        self.runner = asyncio.Runner()  # one loop for all that a test does: locks belong to a loop
        self.engines = [MemoryEngine(url=f"memory-{number}") for number in range(engines)]
        self.engine = self.engines[0]
        self.start_service()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.runner.close()

    def start_service(
        self, reconcile_seconds: float = 0.01, keep_loaded: int = 2, allow_untold: bool = False
    ) -> Rollout:
        self.replicas = [
            Replica(self.registry, engine, engine.max_loras, allow_untold=allow_untold, other_model=other_model)
            for engine in self.engines
        ]
        self.replica = self.replicas[0]
        self.rollout = Rollout(self.registry.store, self.replicas, reconcile_seconds, keep_loaded)
        return self.rollout

    def publish(self, gain: float = 0.5, **changes: Any) -> str:
        return self.registry.publish(self.source, provenance(gain, **changes), {}, "Passed every gate.")

    def promote(self, name: str) -> None:
        with self.registry.store.begin() as tx:
            serving.request_live(tx, name, "name:op", "Better.")

    def canary(self, name: str) -> None:
        with self.registry.store.begin() as tx:
            serving.set_canary(tx, name, 0.1, "name:op", "")

    def roll_back(self, to: str | None = None) -> None:
        with self.registry.store.begin() as tx:
            serving.request_rollback(tx, to, "name:op", "")

    def reconcile(self) -> None:
        self.play(self.rollout.reconcile())

    def play(self, story: Coroutine[Any, Any, None]) -> None:
        """Run it to its end, which must come soon."""
        self.runner.run(asyncio.wait_for(story, 30))

    def go_live(self, gain: float = 0.5) -> str:
        name = self.publish(gain)
        self.promote(name)
        self.reconcile()
        assert self.serving().live == name
        return name

    def serving(self) -> Serving:
        with self.registry.store.read() as tx:
            return serving.desired_state(tx)

    def urls_serving(self) -> set[str]:
        """Where the engines are that get requests."""
        return {replica.url for replica in self.rollout.serving}

    def row(self, name: str) -> Adapter:
        with self.registry.store.read() as tx:
            row = adapters.get_adapter(tx, name)
        assert row is not None
        return row

    def events(self, name: str) -> list[tuple[str, str]]:
        with self.registry.store.read() as tx:
            return [(event.action, event.reason) for event in adapters.events(tx, name)]

    def replacement(self) -> str | None:
        with self.registry.store.read() as tx:
            return replacement(tx, self.registry.folder)

    def break_folder(self, name: str) -> None:
        (self.registry.folder / name / "adapter_model.safetensors").unlink()

    def run(self, body: Body) -> None:
        """Run the body beside the rollout's loop."""

        async def both() -> None:
            async with self.looping():
                await body()

        self.play(both())

    @asynccontextmanager
    async def looping(self) -> AsyncIterator[None]:
        loop = asyncio.create_task(self.rollout.run())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    async def until(self, holds: Callable[[], bool], despite_bugs: bool = False) -> None:
        while not holds():
            assert despite_bugs or "bug" not in (self.rollout.problem or "")
            await asyncio.sleep(0.002)
