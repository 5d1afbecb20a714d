"""The engine that `hone up` starts: its options, and where vLLM is looked for."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import pytest

from service.doctor import Finding, examine
from service.engine_program import check_folders, engine_program, find_vllm_python
from service.errors import SettingsError
from service.model_shape import read_config
from service.settings import SPROUT, EngineSettings, load_settings
from service.supervisor import Program


def program(tmp_path: Path, **engine: Any) -> Program:
    return engine_program(load_settings(tmp_path, {"engine": engine}, environment={}), 8001)


def option(found: Program, name: str) -> str:
    return found.arguments[list(found.arguments).index(name) + 1]


def test_the_embedded_engine_runs_in_our_interpreter_with_its_settings(tmp_path: Path) -> None:
    found = program(tmp_path, max_loras=5, max_model_len=300)
    assert (found.module, found.python) == ("service.embedded", None)
    assert (option(found, "--max-loras"), option(found, "--max-model-len")) == ("5", "300")
    assert "--max-model-len" not in program(tmp_path).arguments  # as much as the model was made for


@pytest.mark.parametrize("kind", ["embedded", "vllm"])
def test_other_weights_are_served_under_the_model_s_name(tmp_path: Path, kind: Literal["embedded", "vllm"]) -> None:
    found = program(tmp_path, kind=kind, vllm_python=sys.executable, weights="/models/sprout-nf4")
    assert (option(found, "--model"), option(found, "--served-model-name")) == ("/models/sprout-nf4", "sprout")


def test_vllm_gets_loras_raw_logprobs_and_a_share_of_the_gpu(tmp_path: Path) -> None:
    found = program(
        tmp_path,
        kind="vllm",
        vllm_python=sys.executable,
        max_lora_rank=17,
        max_loras=6,
        kv_cache_gib=1.5,
        gpu_memory_share=0.4,
        vllm_options="--tensor-parallel-size 2 --tokenizer 'a folder'",
    )
    assert found.python == sys.executable and found.module.startswith("vllm.")
    assert (option(found, "--model"), option(found, "--served-model-name")) == (str(SPROUT), "sprout")
    assert option(found, "--host") == "127.0.0.1" and "--enable-lora" in found.arguments
    assert (option(found, "--max-loras"), option(found, "--max-lora-rank")) == ("6", "32")
    assert option(found, "--logprobs-mode") == "raw_logprobs"
    assert option(found, "--gpu-memory-utilization") == "0.4"
    assert list(found.arguments[-4:]) == ["--tensor-parallel-size", "2", "--tokenizer", "a folder"]
    assert float(option(found, "--shutdown-timeout")) < found.stop_seconds
    assert found.ready_url == "http://127.0.0.1:8001/health"
    assert found.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert found.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on this machine; no hub is reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache(hub: Path, name: str, config: str) -> None:
    """Put a model's configuration where a download would have."""
    model, revision = hub / f"models--{name.replace('/', '--')}", "1" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    (model / "snapshots" / revision).mkdir(parents=True)
    (model / "snapshots" / revision / "config.json").write_text(config)


def test_vllm_s_loras_are_kept_to_the_layers_that_are_trained_where_those_are_known(tmp_path: Path, hub: Path) -> None:
    def layers(model: str) -> list[str]:
        arguments = list(program(tmp_path, kind="vllm", vllm_python=sys.executable, model=model).arguments)
        place = arguments.index("--lora-target-modules") if "--lora-target-modules" in arguments else len(arguments)
        return arguments[place + 1 :]

    trained = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert layers("sprout") == trained
    other = tmp_path / "other"
    other.mkdir()
    for text in ("[]", "{", '{"model_type": "gpt2"}'):
        (other / "config.json").write_text(text)
        assert layers(str(other)) == []
    assert layers("Qwen/Qwen3-0.6B") == []  # neither hub nor cache has it
    cache(hub, "Qwen/Qwen3-0.6B", json.dumps({"model_type": "qwen3"}))
    assert layers("Qwen/Qwen3-0.6B") == trained


def test_a_hub_is_asked_once_and_never_for_what_its_cache_has(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    whole = huggingface_hub.hf_hub_download

    def download(name: str, file: str, local_files_only: bool) -> str:
        if not local_files_only:
            asked.append(name)
        return whole(name, file, local_files_only=local_files_only)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    cache(hub, "some/cached", json.dumps({"model_type": "qwen3"}))
    for _ in range(2):
        assert read_config("some/cached") == {"model_type": "qwen3"}
        assert read_config("some/unreachable") == {}
    assert asked == ["some/unreachable"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--enforce-eager --logprobs-mode processed_logprobs", "sets --logprobs-mode processed_logprobs: Hone keeps"),
        ("--logprobs_mode=raw_logits", "raw_logits"),
        ("--no-enable-lora", "no adapter is served"),
        ("--max-loras 2", "a swap needs 3 slots"),
        ("--port 9000", "Hone chooses the engine's port"),
        ("--api-key secret", "Hone sends its engine no key"),
        ("--uds /run/vllm.sock", "on a port"),
        ("--ssl-keyfile key.pem --ssl-certfile cert.pem", "plain HTTP"),
        ("--ssl_certfile=both.pem", "sets --ssl-certfile: Hone talks to its engine over plain HTTP"),
        ("--override-generation-config '{\"temperature\": 0.5}'", 'Add "max_new_tokens": null'),
        ("--override_generation_config='{\"max_new_tokens\": 64}'", "without max_new_tokens"),
        ("--override-generation-config.temperature 0.5", "without max_new_tokens"),
        ("--override-generation-config.max_new_tokens=64", "without max_new_tokens"),
        ("--override-generation-config [", "without max_new_tokens"),
        ("--tokenizer 'a folder", "Close the quote"),
    ],
)
def test_an_option_that_takes_away_what_hone_depends_on_is_refused(tmp_path: Path, options: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        program(tmp_path, kind="vllm", vllm_python=sys.executable, vllm_options=options)
    assert "engine.vllm_options" in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        ["--logprobs-mode", "raw_logprobs", "--max-loras", "3", "--max-lora-rank", "64"],
        ["--override-generation-config", '{"temperature": 0.5, "max_new_tokens": null}'],
        ["--override-generation-config.temperature", "0.5", "--override-generation-config.max_new_tokens=null"],
    ],
)
def test_options_that_hone_can_live_with_are_handed_on(tmp_path: Path, options: list[str]) -> None:
    found = program(tmp_path, kind="vllm", vllm_python=sys.executable, vllm_options=shlex.join(options))
    assert list(found.arguments[-len(options) :]) == options


def test_a_model_that_is_not_there_is_told_before_vllm_is_started(tmp_path: Path) -> None:
    def check(**engine: Any) -> None:
        check_folders(load_settings(tmp_path, {"engine": {"kind": "vllm"} | engine}, environment={}))

    for none in ("/nope", "./nope", "models/of/mine"):
        with pytest.raises(SettingsError, match=f"There is no model folder {none}"):
            check(model=none)
    with pytest.raises(SettingsError, match=r"no config\.json") as empty:
        check(model="sprout", weights=str(tmp_path))
    assert "engine.weights" in str(empty.value)
    check(model="sprout")
    check(model="Qwen/Qwen3-0.6B")  # a hub may have it
    check(model="/nope", urls=["http://127.0.0.1:9"])  # an engine elsewhere has its own


def test_a_rank_that_vllm_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"up to 512, not 513"):
        program(tmp_path, kind="vllm", vllm_python=sys.executable, max_lora_rank=513)


def test_vllm_is_found_beside_the_project_or_named_or_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    beside = tmp_path / "python"
    with pytest.raises(SettingsError, match="not installed") as missing:
        find_vllm_python(EngineSettings(), beside)
    assert "make vllm" in str(missing.value) and "engine.vllm_python" in str(missing.value)
    beside.symlink_to(sys.executable)
    assert find_vllm_python(EngineSettings(), beside) == beside
    assert find_vllm_python(EngineSettings(vllm_python=sys.executable), beside) == Path(sys.executable)
    with pytest.raises(SettingsError, match="names no program"):
        find_vllm_python(EngineSettings(vllm_python=str(tmp_path / "none")), beside)
    with pytest.raises(SettingsError, match="Linux alone"):
        find_vllm_python(EngineSettings(), beside, platform="darwin")


def test_the_doctor_says_which_vllm_is_started_or_how_to_get_it(tmp_path: Path) -> None:
    def engine(python: str) -> Finding:
        settings = load_settings(tmp_path, {"engine": {"kind": "vllm", "vllm_python": python}}, environment={})
        return next(finding for finding in examine(settings) if finding.check == "engine")

    assert engine(sys.executable).found.startswith(f"vLLM by {sys.executable}")
    assert engine(str(tmp_path / "none")).ok is False
