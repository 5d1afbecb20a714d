"""Two vLLM side by side: what one was given the other doesn't have, and the rollout sees to both.

The second tells the log-probabilities of what it samples as the temperature makes them, which is found out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import engine_program
from service.adapters.registry import Registry
from service.adapters.replica import Replica
from service.adapters.rollout import Rollout
from service.engine import Engine
from service.engine_probes import has_raw_logprobs
from service.settings import SPROUT
from service.store.queries import serving
from service.store.session import Store
from tests.embedded.models import save_adapter
from tests.engine_contract.asking import PROMPT, REPLY, gap, scores, true_scores
from tests.fixtures.engines import MAX_LORAS, SMALL, ServedEngine, serving_sprout
from tests.fixtures.provenance import scored_provenance
from tests.fixtures.waiting import PATIENCE, until

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module")
def pair(vllm_engine: ServedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServedEngine]]:
    options = {"vllm_options": f"{SMALL['vllm_options']} --logprobs-mode processed_logprobs"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_program, "check_options", lambda words: None)  # Hone itself starts none like that
        with serving_sprout("vllm", tmp_path_factory.mktemp("second"), SMALL | options) as second:
            yield [vllm_engine, second]


def test_an_adapter_is_brought_to_each_and_back_to_one_that_lost_it(
    pair: list[ServedEngine], sqlite_store: Store, tmp_path: Path
) -> None:
    trained, tokens = save_adapter(tmp_path / "trained", SPROUT, seed=1), [*PROMPT, *REPLY]
    registry = Registry(sqlite_store, tmp_path / "adapters", SPROUT)
    name = registry.publish(trained, scored_provenance(trained, SPROUT, PROMPT, REPLY), {}, "")
    assert pair[0].load("loaded-by-hand", trained).status_code == 200
    assert [model["id"] for model in pair[1].models()] == ["sprout"]
    pair[0].unload("loaded-by-hand")
    with sqlite_store.begin() as tx:
        serving.request_live(tx, name, "name:op", "")

    async def story() -> None:
        clients = [Engine(engine.url) for engine in pair]
        replicas = [Replica(registry, client, MAX_LORAS) for client in clients]
        rollout = Rollout(sqlite_store, replicas)
        loop = asyncio.create_task(rollout.run())
        try:
            await asyncio.to_thread(until, lambda: all(replica.loaded == {name} for replica in replicas))
            await clients[1].unload_adapter(name)  # as a restart leaves it
            await asyncio.to_thread(until, lambda: name in [model["id"] for model in pair[1].models()])
            await asyncio.to_thread(until, lambda: replicas[1].serves and name in replicas[1].loaded)
            assert replicas[0].serves and all(replica.loaded == {name} for replica in replicas)
            for engine in pair:
                said = await asyncio.to_thread(scores, engine, name, tokens)
                assert gap(said, true_scores(tokens, trained)) < engine.close_to
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            for client in clients:
                await client.unload_adapter(name)
                await client.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE))


def test_log_probabilities_that_follow_the_temperature_are_found_out(pair: list[ServedEngine]) -> None:
    async def story(engine: ServedEngine) -> bool | None:
        client = Engine(engine.url, PATIENCE)
        try:
            return await has_raw_logprobs(client, "sprout")
        finally:
            await client.close()

    assert [asyncio.run(story(engine)) for engine in pair] == [True, False]
