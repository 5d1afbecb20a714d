"""What is tried out of an engine that doesn't tell it, on each engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from service.adapters.engine import EngineFacts
from service.engine import Engine
from service.engine_probes import try_out
from tests.fixtures.engines import SMALL, ServedEngine
from tests.fixtures.waiting import PATIENCE


def test_log_probabilities_are_found_to_be_the_model_s_own_and_the_rank_what_it_was_started_with(
    engine: ServedEngine, tmp_path: Path
) -> None:
    async def story() -> EngineFacts:
        client = Engine(engine.url, timeout_seconds=PATIENCE)
        try:
            return await try_out(client, await client.facts(), tmp_path / "adapters")
        finally:
            await client.close()

    before = [model["id"] for model in engine.models()]
    facts = asyncio.run(story())
    assert (facts.raw_logprobs, facts.rank) == (True, SMALL["max_lora_rank"])
    assert facts.sees_adapters is (True if engine.kind == "vllm" else None)  # the other tells its rank itself
    assert [model["id"] for model in engine.models()] == before and not list((tmp_path / "adapters").glob("*"))
