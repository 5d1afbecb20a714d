"""What is said of an engine at the start: what it tells of itself, what is wrong, and how to mend it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from service.adapters.engine import EngineFacts
from service.engine import Engine
from service.engine_checks import examine_engines, shortcomings
from service.settings import Settings, load_settings
from tests.service.fake_engine import CONTEXT, FakeEngine
from tests.service.serving import serve

VLLM = 'vllm:num_requests_running{engine="0",model_name="m"} 0.0\n'
LORA = "# HELP vllm:lora_requests_info Running stats on lora requests.\n# TYPE vllm:lora_requests_info gauge\n"
SLOTS = 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1.7e+09\n'
OURS = VLLM + 'hone:max_loras{model_name="sprout"} 8\nhone:max_lora_rank{model_name="sprout"} 32\n'


def facts_of(metrics: str | None, version: str | None, loads: bool = True) -> EngineFacts:
    """What is made of an engine's answers."""
    app = FastAPI()
    engine = FakeEngine()
    app.get("/v1/models")(engine.models)
    if metrics is not None:
        app.get("/metrics")(lambda: PlainTextResponse(metrics))
    if version is not None:
        app.get("/version")(lambda: {"version": version})
    if loads:
        app.post("/v1/load_lora_adapter")(engine.load)

    async def ask() -> EngineFacts:
        client = Engine("http://engine", transport=httpx2.ASGITransport(app))
        try:
            return await client.facts()
        finally:
            await client.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("metrics", "version", "loads", "facts"),
    [
        (VLLM + LORA + SLOTS, "0.32.0", True, {"server": "vLLM 0.32.0", "has_lora": True, "slots": 2}),
        (VLLM + LORA, "0.32.0", True, {"server": "vLLM 0.32.0", "has_lora": True}),  # before its first request
        (VLLM, "0.32.0", False, {"server": "vLLM 0.32.0", "has_lora": False, "loads_adapters": False}),
        (None, "0.32.0", True, {"server": "vLLM 0.32.0"}),
        (OURS, None, True, {"server": "embedded engine", "has_lora": True, "slots": 8, "rank": 32}),
        (None, None, True, {}),
    ],
)
def test_an_engine_is_known_by_what_it_answers(
    metrics: str | None, version: str | None, loads: bool, facts: dict[str, Any]
) -> None:
    expected = replace(EngineFacts("fake", loads_adapters=True, context=CONTEXT), **facts)
    assert facts_of(metrics, version, loads) == expected


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path, {"learner": {"rank": 16}}, {})


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"has_lora": False}, "--enable-lora"),
        ({"loads_adapters": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ({"slots": 2}, "a swap needs 3. Start it with --max-loras 8"),
        ({"slots": 4}, "fewer than engine.max_loras"),
        ({"rank": 8}, "--max-lora-rank 16"),
    ],
)
def test_what_is_wrong_is_said_with_how_to_mend_it(settings: Settings, facts: dict[str, Any], words: str) -> None:
    (found,) = shortcomings(EngineFacts("base", **facts), settings)
    assert words in f"{found.what} {found.mend}"


def test_an_engine_that_tells_everything_or_nothing_has_no_shortcoming(settings: Settings) -> None:
    whole = EngineFacts("base", "vLLM 0.32.0", True, True, slots=8, rank=32, context=4096)
    assert not list(shortcomings(whole, settings)) and not list(shortcomings(EngineFacts("base"), settings))
    assert whole.words == (
        "serves base: vLLM 0.32.0; LoRA on, loading at run time on; 8 slots, rank up to 32; context 4096 tokens"
    )


def test_every_engine_of_the_settings_is_reported_on(tmp_path: Path) -> None:
    another = FastAPI()
    another.get("/v1/models")(lambda: {"data": [{"id": "another", "parent": None}]})
    with serve(FakeEngine().app) as good, serve(another) as other, serve(FastAPI()) as stranger:
        urls = [good, other, stranger, "http://127.0.0.1:9"]
        reports = examine_engines(load_settings(tmp_path, {"engine": {"urls": urls}}, {}))
    assert [report.url for report in reports] == urls
    lines = ["\n".join(report.lines) for report in reports]
    assert f"Engine {good} serves fake: version not told" in lines[0]
    assert all("serve different models (another, fake)" in line for line in lines)
    assert "Start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in lines[1]
    assert "Check engine.urls" in lines[2] and "can't be reached" in lines[3]
