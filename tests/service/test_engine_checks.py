"""What is said of an engine at the start: what it tells of itself, what is wrong, and how to mend it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from service.adapters.engine import EngineFacts
from service.engine import Engine
from service.engine_checks import examine_engines, shortcomings, untold, weights_problem
from service.engine_program import engine_program
from service.settings import Settings, load_settings
from tests.fixtures.serving import serve
from tests.service.fake_engine import CONTEXT, FakeEngine
from tests.service.pretend_vllm import PretendVllm

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
    expected = replace(EngineFacts("fake", root="/models/fake", loads_adapters=True, context=CONTEXT), **facts)
    assert facts_of(metrics, version, loads) == expected


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path, {"learner": {"rank": 16}, "engine": {"model": "base"}}, {})


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"has_lora": False}, "--enable-lora"),
        ({"loads_adapters": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ({"slots": 2}, "a swap needs 3. Start it with --max-loras 8"),
        ({"slots": 4}, "fewer than engine.max_loras"),
        ({"rank": 8}, "--max-lora-rank 16"),
        ({"raw_logprobs": False}, "--logprobs-mode raw_logprobs"),
        ({"sees_adapters": False}, "Give it that folder under the same path"),
        ({"context": 511}, "with --max-model-len 512 or more, or set chat.max_tokens = 255"),
    ],
)
def test_what_is_wrong_is_said_with_how_to_mend_it(settings: Settings, facts: dict[str, Any], words: str) -> None:
    (found,) = shortcomings(EngineFacts("base", **facts), settings)
    assert words in f"{found.what} {found.mend}"


def test_an_engine_that_tells_everything_or_nothing_has_no_shortcoming(settings: Settings) -> None:
    whole = EngineFacts("base", "vLLM 0.32.0", "base", True, True, slots=8, rank=32, context=4096)
    assert not list(shortcomings(whole, settings)) and not list(shortcomings(EngineFacts("base"), settings))
    assert whole.words == (
        "serves base: vLLM 0.32.0; LoRA on, loading at run time on; 8 slots, rank up to 32; context 4096 tokens"
    )
    tried = replace(whole, raw_logprobs=False, sees_adapters=True).words
    assert tried.endswith("4096 tokens; log-probabilities NOT the model's own; adapters folder seen")


@pytest.mark.parametrize(
    ("model", "base", "root"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("Qwen/Qwen3-4B", "our-model", "Qwen/Qwen3-4B"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B", "/model"),
        ("Qwen/Qwen3-4B", "our-model", "/models/qwen3-4b/"),
        ("Qwen/Qwen3-4B", "our-model", "/models/hub/models--Qwen--Qwen3-4B/snapshots/1cfa9a7208"),
        ("/srv/models/Qwen3-4B", "Qwen/Qwen3-4B", None),
        ("sprout", "our-model", "/app/service/sprout"),
    ],
)
def test_an_engine_s_model_is_known_by_its_name_or_by_the_last_part_of_where_it_lies(
    tmp_path: Path, model: str, base: str, root: str | None
) -> None:
    settings = load_settings(tmp_path, {"engine": {"model": model}}, {})
    assert not list(shortcomings(EngineFacts(base, root=root), settings))


def test_a_link_to_a_model_is_that_model(tmp_path: Path) -> None:
    (tmp_path / "Qwen3-4B").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "Qwen3-4B")
    settings = load_settings(tmp_path, {"engine": {"model": str(tmp_path / "current")}}, {})
    assert not list(shortcomings(EngineFacts("our-model", root="/models/Qwen3-4B"), settings))


@pytest.mark.parametrize(
    ("base", "root", "words"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "It serves another model: Qwen/Qwen3-8B; engine.model is Qwen/Qwen3-4B."),
        ("our-model", "/model", "another model: our-model (/model); engine.model"),
        ("our-model", None, "another model: our-model; engine.model"),
    ],
)
def test_another_model_than_the_settings_name_is_told(tmp_path: Path, base: str, root: str | None, words: str) -> None:
    settings = load_settings(tmp_path, {"engine": {"model": "Qwen/Qwen3-4B"}}, {})
    (found,) = shortcomings(EngineFacts(base, root=root), settings)
    assert words in found.what and "--served-model-name Qwen/Qwen3-4B" in found.mend


@pytest.mark.parametrize(
    ("weights", "root", "is_told"),
    [(None, "/models/any", False), ("/models/nf4", "/mnt/nf4", False), ("/models/nf4", "/mnt/other", True)],
)
def test_what_was_dequantised_may_be_called_anything_unless_the_settings_name_it(
    tmp_path: Path, weights: str | None, root: str, is_told: bool
) -> None:
    changes: dict[str, dict[str, Any]] = {"engine": {"weights": weights}, "learner": {"quantise": "nf4"}}
    settings = load_settings(tmp_path, changes, {})
    assert bool(list(shortcomings(EngineFacts("our-model", root=root), settings))) == is_told


@pytest.mark.parametrize(
    ("engine", "is_told"),
    [
        ({}, True),
        ({"kind": "vllm"}, True),
        ({"kind": "vllm", "vllm_options": "--quantization bitsandbytes"}, False),
        ({"kind": "vllm", "vllm_options": "-q=bitsandbytes"}, False),
        ({"vllm_options": "--quantization bitsandbytes"}, True),
        ({"weights": "/models/nf4"}, False),
        ({"urls": ["http://a"]}, False),
    ],
)
def test_an_engine_of_ours_that_serves_other_weights_than_are_trained_against_is_told(
    tmp_path: Path, engine: dict[str, Any], is_told: bool
) -> None:
    def problem(quantise: str) -> bool:
        sections = {"engine": engine, "learner": {"quantise": quantise}}
        return weights_problem(load_settings(tmp_path, sections, {})) is not None

    assert problem("nf4") == is_told and not problem("none")


def test_a_context_below_what_the_settings_name_is_told(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"engine": {"max_model_len": 8192, "model": "base"}}, {})
    (found,) = shortcomings(EngineFacts("base", context=4096), settings)
    assert "4096 tokens, fewer than engine.max_model_len (8192)" in found.what
    assert not list(shortcomings(EngineFacts("base", context=8192), settings))


def test_of_vllm_it_is_said_how_it_has_to_have_been_started_and_of_others_nothing(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"engine": {"kind": "vllm", "vllm_python": sys.executable}}, {})
    advice = untold(EngineFacts("base", "vLLM 0.32.0"), settings)
    assert advice is not None and "--max-lora-rank 16 or more" in advice
    arguments = list(engine_program(settings, 8001).arguments)
    for option in ("--logprobs-mode", "--override-generation-config"):
        assert option in advice and arguments[arguments.index(option) + 1] in advice
    assert "--max-lora-rank" not in str(untold(EngineFacts("base", "vLLM 0.32.0", rank=16), settings))
    assert untold(EngineFacts("base", "embedded engine"), settings) is untold(EngineFacts("base"), settings) is None


def test_every_engine_of_the_settings_is_reported_on(tmp_path: Path) -> None:
    another = FastAPI()
    another.get("/v1/models")(lambda: {"data": [{"id": "another", "parent": None}]})
    with serve(FakeEngine().app) as good, serve(another) as other, serve(FastAPI()) as stranger:
        urls = [good, other, stranger, "http://127.0.0.1:9"]
        reports = examine_engines(load_settings(tmp_path, {"engine": {"urls": urls, "model": "/models/fake"}}, {}))
    assert [report.url for report in reports] == urls
    lines = ["\n".join(report.lines) for report in reports]
    assert f"Engine {good} serves fake: version not told" in lines[0]
    assert ["another model" in line for line in lines] == [False, True, False, False]  # each is told of its own alone
    assert "It serves another model: another; engine.model is /models/fake." in lines[1]
    assert "Start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in lines[1]
    assert "Check engine.urls" in lines[2] and "can't be reached" in lines[3]


def test_of_engines_that_call_the_model_of_the_settings_differently_the_later_is_told_so(tmp_path: Path) -> None:
    alias = FastAPI()
    alias.get("/v1/models")(lambda: {"data": [{"id": "alias", "root": "/mnt/fake", "parent": None}]})
    with serve(FakeEngine().app) as first, serve(alias) as second, serve(FakeEngine().app) as third:
        settings = {"engine": {"urls": [first, second, third], "model": "/models/fake"}}
        reports = examine_engines(load_settings(tmp_path, settings, {}))
    told = ["\n".join(one.words for one in report.shortcomings) for report in reports]
    assert [f"by another name: alias; {first} serves fake." in one for one in told] == [False, True, False]


def examined(tmp_path: Path, engine: PretendVllm, command_line: Sequence[str] = ()) -> str:
    with serve(engine.app) as url:
        settings = load_settings(tmp_path, {"engine": {"urls": [url], "model": "/models/fake"}}, {})
        (report,) = examine_engines(settings, command_line)
    assert not list((tmp_path / "adapters").glob("*")) and bool(engine.adapters) is engine.refuses_to_unload
    return "\n".join(report.lines)


def test_what_vllm_does_not_tell_is_tried_out_and_nothing_of_that_stays(tmp_path: Path) -> None:
    said = examined(tmp_path, PretendVllm(slots=8, rank=16))
    assert (
        "8 slots, rank up to 16; context 2048 tokens; log-probabilities the model's own; adapters folder seen" in said
    )
    assert "--max-lora" not in said and "--logprobs-mode" not in said
    assert "See that it was started with --override-generation-config" in said  # what nobody can try


def test_a_vllm_that_is_set_up_otherwise_is_found_out(tmp_path: Path) -> None:
    engine = PretendVllm(slots=2, rank=8, mode="processed_logprobs")
    said = examined(tmp_path, engine)
    for words in ("a swap needs 3", "up to rank 8", "Start vLLM with --logprobs-mode raw_logprobs"):
        assert words in said
    engine.sees_folder = False
    said = examined(tmp_path, engine)
    assert f"It doesn't see the adapters folder {tmp_path / 'adapters'}." in said and "rank up to (not told)" in said


def test_of_a_vllm_that_we_have_started_its_command_line_is_known(tmp_path: Path) -> None:
    """The last of two options wins; the rank needs no trying."""
    engine = PretendVllm(slots=4)
    line = ["--max-loras", "3", "--max-lora-rank", "8", "--max_lora_rank=32"]
    said = examined(tmp_path, engine, line)
    assert "rank up to 32" in said and "doesn't tell everything" not in said
    assert "8 slots" not in said and not engine.asked_to_load


def test_an_engine_that_takes_whatever_it_is_given_loses_it_again(tmp_path: Path) -> None:
    said = examined(tmp_path, PretendVllm(rank=5000))
    assert "rank up to (not told)" in said and "--max-lora-rank 16 or more" in said


def test_one_that_refuses_to_lose_it_is_reported_on_all_the_same(tmp_path: Path) -> None:
    engine = PretendVllm(rank=5000)
    engine.refuses_to_unload = True
    assert "rank up to (not told)" in examined(tmp_path, engine)
