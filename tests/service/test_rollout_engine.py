"""The rollout against a real engine process: real weights loaded, proven, refused, and put back after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.adapters.registry import Registry
from service.adapters.replica import Replica
from service.adapters.rollout import Rollout
from service.engine import Engine
from service.store.queries import adapters, serving
from service.store.session import Store
from service.store.tables import Serving
from tests.embedded.models import save_adapter, save_model
from tests.fixtures.engine_process import EngineProcess
from tests.fixtures.provenance import scored_provenance
from tests.fixtures.waiting import PATIENCE

PROMPT, REPLY = [1, 20, 30, 40], [50, 60, 70, 80, 90]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def engine(model: Path) -> Iterator[EngineProcess]:
    process = EngineProcess(model)
    process.wait()
    yield process
    process.kill()


def test_real_adapters_are_proven_or_refused_and_survive_the_engines_death(
    engine: EngineProcess, model: Path, sqlite_store: Store, tmp_path: Path
) -> None:
    registry = Registry(sqlite_store, tmp_path / "adapters", model)
    first, second = (save_adapter(tmp_path / f"trained {seed}", model, seed) for seed in (1, 2))
    told = scored_provenance(first, model, PROMPT, REPLY)
    honest = registry.publish(first, told, {}, "")
    liar = registry.publish(second, told, {}, "")  # the probes are those of other weights

    def request(name: str) -> None:
        with sqlite_store.begin() as tx:
            serving.request_live(tx, name, "name:op", "")

    def desired() -> Serving:
        with sqlite_store.read() as tx:
            return serving.desired_state(tx)

    async def story() -> None:
        client = Engine(engine.url)
        replica = Replica(registry, client, max_loras=3)
        rollout = Rollout(registry.store, [replica], reconcile_seconds=0.05)

        async def until(holds: Callable[[], bool]) -> None:
            while not holds():
                assert "bug" not in (rollout.problem or "")
                await asyncio.sleep(0.02)

        loop = asyncio.create_task(rollout.run())
        try:
            request(honest)
            await until(lambda: desired().live == honest)
            request(liar)
            await until(lambda: desired().requested is None)
            assert desired().live == honest
            engine.kill()
            await until(lambda: rollout.problem is not None)
            engine.start()
            await until(lambda: honest in rollout.loaded)
            assert [m.name for m in await client.models() if m.parent is not None] == [honest]
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await client.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE))
    with sqlite_store.read() as tx:
        refused = adapters.get_adapter(tx, liar)
    assert refused is not None and refused.state == "rejected"
    assert "differ from the trainer's" in refused.reason
