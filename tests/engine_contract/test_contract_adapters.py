"""Adapters: loaded, named, served beside the base, unloaded, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.embedded.serving import parse_event
from tests.engine_contract.asking import PROMPT, REPLY, TEXT, complete, gap, greedy_ids, scores, true_scores
from tests.fixtures.engines import ServedEngine

TOKENS = [*PROMPT, *REPLY]


def test_an_adapter_is_loaded_served_as_it_is_and_unloaded(engine: ServedEngine, adapter: Path, name: str) -> None:
    base = scores(engine, "sprout", TOKENS)
    assert engine.load(name, adapter).status_code == 200
    card = next(card for card in engine.models() if card["id"] == name)
    assert (card["root"], card["parent"]) == (str(adapter), "sprout")
    found = scores(engine, name, TOKENS)
    assert gap(found, true_scores(TOKENS, adapter)) < engine.close_to < gap(found, base)
    assert scores(engine, "sprout", TOKENS) == pytest.approx(base, abs=1e-6)
    assert engine.post(TEXT, complete(model=name)).json()["model"] == name
    assert engine.unload(name).status_code == 200
    assert engine.post(TEXT, complete(model=name)).status_code == 404
    assert engine.unload(name).status_code == 404
    assert name not in [card["id"] for card in engine.models()]


def test_two_adapters_and_the_base_answer_beside_each_other(
    engine: ServedEngine, adapter: Path, other_adapter: Path, name: str
) -> None:
    second = f"{name}-b"
    folders = {name: adapter, second: other_adapter, "sprout": None}
    for model, folder in folders.items():
        assert folder is None or engine.load(model, folder).status_code == 200
    try:
        for model, folder in folders.items():
            assert gap(scores(engine, model, TOKENS), true_scores(TOKENS, folder)) < engine.close_to
    finally:
        engine.unload(second)


def test_a_name_that_is_taken_is_refused(engine: ServedEngine, adapter: Path, other_adapter: Path, name: str) -> None:
    assert engine.load(name, adapter).status_code == 200
    before = scores(engine, name, TOKENS)
    for folder in (adapter, other_adapter):
        assert engine.load(name, folder).status_code == 400
    assert engine.load("sprout", adapter).status_code == 400
    assert scores(engine, name, TOKENS) == pytest.approx(before, abs=1e-6)


def test_a_folder_that_is_not_there_is_not_found(engine: ServedEngine, tmp_path: Path, name: str) -> None:
    assert engine.load(name, tmp_path / "nothing").status_code == 404


@pytest.mark.parametrize("broken", ["no-files", "cut", "no-json", "rank", "dora", "bias", "lora-bias"])
def test_what_cannot_be_served_is_refused_and_harms_nobody(
    engine: ServedEngine, adapter: Path, tmp_path: Path, name: str, broken: str
) -> None:
    """The embedded engine says 400 or 404, vLLM 404 or 500: nobody may read more into the number than "no"."""
    answer = engine.load(name, _broken(adapter, tmp_path / "broken", broken))
    assert answer.status_code in (400, 404, 500)
    assert answer.json()["error"]["message"]
    assert name not in [card["id"] for card in engine.models()]
    assert engine.post(TEXT, complete()).status_code == 200


def _broken(sound: Path, folder: Path, how: str) -> Path:
    if how == "no-files":
        folder.mkdir()
        return folder
    shutil.copytree(sound, folder)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    match how:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "no-json":
            config.write_text("{")
        case "rank":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 64}))
        case "dora":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
        case "bias":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"bias": "all"}))
        case "lora-bias":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_bias": True}))
    return folder


def test_a_stream_that_began_on_an_adapter_ends_on_it(engine: ServedEngine, adapter: Path, name: str) -> None:
    assert engine.load(name, adapter).status_code == 200
    expected = greedy_ids(engine, name, tokens=40)
    assert _streamed_ids(engine, name, meanwhile=lambda: engine.unload(name)) == expected


def test_a_stream_goes_on_when_an_adapter_is_loaded_in_its_midst(
    engine: ServedEngine, adapter: Path, name: str
) -> None:
    """The load holds it up, in vLLM at least, and changes nothing of it."""
    expected = greedy_ids(engine, "sprout", tokens=40)
    assert _streamed_ids(engine, "sprout", meanwhile=lambda: engine.load(name, adapter)) == expected


def _streamed_ids(engine: ServedEngine, model: str, meanwhile: Callable[[], httpx2.Response]) -> list[int]:
    """Forty tokens; `meanwhile` is asked, and granted, once the first has come."""
    body = complete(model=model, temperature=0, max_tokens=40, ignore_eos=True, return_token_ids=True, stream=True)
    tokens: list[int] = []
    with engine.http.stream("POST", TEXT, json=body) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            if not tokens:
                assert meanwhile().status_code == 200
            tokens += parse_event(line)["choices"][0].get("token_ids") or []
    return tokens
