"""The share of a GPU that `hone up` gives vLLM; nvidia-smi is a program that says what the test wants."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import cli
from service.engine_program import engine_program
from service.errors import SettingsError
from service.gpus import first_gpu
from service.memory_share import with_memory_share
from service.settings import Settings, load_settings
from tests.service.model_configs import QWEN2

EIGHT = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
SMALL_CARD, LARGE_CARD = "NVIDIA RTX, 23552, 23552", "NVIDIA H100, 80896, 80896"  # MiB: 22 and 78 GiB to use

Smi = Callable[..., Path]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    """Puts an nvidia-smi first that prints these lines; returns where it notes what it was asked."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("service.memory_share.torch_uses_gpus", lambda: True)

    def put(*lines: str, status: int = 0) -> Path:
        program, asked = tmp_path / "bin" / "nvidia-smi", tmp_path / "asked"
        program.parent.mkdir(exist_ok=True)
        said = "\n".join(lines)
        program.write_text(f"#!/bin/sh\necho \"$@\" > '{asked}'\ncat <<'END'\n{said}\nEND\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return asked

    return put


def settings(tmp_path: Path, config: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Settings:
    """Those of a vLLM over a model's folder, in which there is nothing but its configuration."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(QWEN2 if config is None else config))
    engine = {"kind": "vllm", "model": str(folder), "vllm_python": sys.executable} | sections.pop("engine", {})
    return load_settings(tmp_path / "home", {"engine": engine, **sections}, environment={})


def share_of(settings: Settings) -> str:
    arguments = list(engine_program(settings, 8001).arguments)
    return str(arguments[arguments.index("--gpu-memory-utilization") + 1])


def test_vllm_gets_the_share_that_leaves_the_learner_its_room(tmp_path: Path, smi: Smi) -> None:
    asked = smi(SMALL_CARD)
    found, words = with_memory_share(settings(tmp_path), learner=True)
    assert share_of(found) == "0.29"
    assert words == (
        "vLLM takes 0.29 of the memory of NVIDIA RTX: its KV cache holds about 266,684 tokens, and the learner has "
        "room beside it."
    )
    assert "--id" not in asked.read_text()
    found, words = with_memory_share(settings(tmp_path), learner=False)
    assert share_of(found) == "0.9" and "learner" not in (words or "")


def test_a_learner_on_the_cpu_needs_no_room(tmp_path: Path, smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(SMALL_CARD)
    monkeypatch.setattr("service.memory_share.torch_uses_gpus", lambda: False)
    assert share_of(with_memory_share(settings(tmp_path), learner=True)[0]) == "0.9"


def test_the_line_says_that_steps_are_taken_in_parts(tmp_path: Path, smi: Smi) -> None:
    smi(LARGE_CARD)
    chosen = settings(tmp_path, EIGHT, engine={"max_model_len": 8192, "max_lora_rank": 16})
    found, words = with_memory_share(chosen, learner=True)
    assert share_of(found) == "0.49" and "in 2 parts." in (words or "")


@pytest.mark.parametrize(
    "engine",
    [
        {"gpu_memory_share": 0.75},
        {"vllm_options": "--gpu-memory-utilization 0.75"},
        {"vllm_options": "--kv_cache_memory_bytes=1000"},
        {"kind": "embedded"},
        {"urls": ["http://127.0.0.1:9"]},
    ],
)
def test_what_the_operator_says_is_taken_as_it_is(tmp_path: Path, smi: Smi, engine: dict[str, Any]) -> None:
    """Although this model wouldn't fit, by the arithmetic."""
    smi(SMALL_CARD)
    own = settings(tmp_path, EIGHT, engine=engine)
    assert with_memory_share(own, learner=True) == (own, None)
    if "gpu_memory_share" in engine:
        assert share_of(own) == "0.75"


@pytest.mark.parametrize(("line", "status"), [("No devices were found", 0), ("Failed", 9), ("", 0), ("A, [N/A], 1", 0)])
def test_without_a_gpu_all_is_as_it_was(tmp_path: Path, smi: Smi, line: str, status: int) -> None:
    smi(line, status=status)
    own = settings(tmp_path, EIGHT)
    assert with_memory_share(own, learner=True) == (own, None)
    assert share_of(own) == "0.6"


def test_without_nvidia_smi_there_is_no_gpu(tmp_path: Path) -> None:
    assert first_gpu({"PATH": str(tmp_path)}) is None


def test_the_card_is_the_first_that_programs_are_allowed_to_see(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = smi(LARGE_CARD, SMALL_CARD)
    found = first_gpu()
    assert found is not None and found.name == "NVIDIA RTX"  # which is CUDA's first isn't known: the smaller one
    assert found.usable == 22 << 30
    asked = smi(LARGE_CARD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    found = first_gpu()
    assert found is not None and found.name == "NVIDIA H100" and "--id=1" in asked.read_text()
    for none in ("", "-1", "MIG-1234"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert first_gpu() is None


@pytest.mark.parametrize("config", [{**QWEN2, "model_type": "mixtral"}, {}])
def test_a_model_of_an_unknown_shape_gets_the_usual_share_and_that_is_said(
    tmp_path: Path, smi: Smi, config: dict[str, Any]
) -> None:
    smi(SMALL_CARD)
    found, words = with_memory_share(settings(tmp_path, config), learner=True)
    assert share_of(found) == "0.6" and "engine.gpu_memory_share sets another" in (words or "")


def test_a_hub_name_that_can_not_be_looked_up_is_no_error(
    tmp_path: Path, smi: Smi, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(SMALL_CARD)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/has-this", "no name at all"):
        found, words = with_memory_share(settings(tmp_path, engine={"model": name}), learner=True)
        assert share_of(found) == "0.6" and "isn't known" in (words or "")


def test_options_of_vllm_are_reckoned_with(tmp_path: Path, smi: Smi) -> None:
    def fits(options: str) -> bool:
        try:
            with_memory_share(settings(tmp_path, EIGHT, engine={"vllm_options": options}), learner=False)
        except SettingsError:
            return False
        return True

    smi(SMALL_CARD)
    assert not fits("")  # 16 GiB for one conversation of 131,072 tokens
    assert fits("--max-model-len 4096") and fits("--max_model_len=4096") and fits("--max-model-len auto")
    assert not fits("--max-model-len 4096 --max-lora-rank 256") and fits("--max-model-len 4096 --max-loras 3")
    assert fits("-tp 4") and fits("--tensor-parallel-size=2 --pipeline-parallel-size 2")


def refused(settings: Settings, learner: bool = True) -> str:
    with pytest.raises(SettingsError) as error:
        with_memory_share(settings, learner)
    return str(error.value)


def test_what_does_not_fit_is_refused_with_numbers_and_what_to_change(tmp_path: Path, smi: Smi) -> None:
    smi(SMALL_CARD)
    words = refused(settings(tmp_path, EIGHT, engine={"max_model_len": 8192, "max_lora_rank": 16}))
    assert re.search(r"vLLM needs 18\.6 GiB \(weights 15\.0, 8 adapters of rank 16 0\.7, .*8,192 tokens 1\.0", words)
    assert "the learner 39.7 GiB (base 15.0, adapter and optimizer 0.8" in words and "22.0 GiB of NVIDIA RTX" in words
    assert "It fits" not in words  # nothing helps on this card
    assert "`hone up --no-learner`, and beside it `CUDA_VISIBLE_DEVICES=1 hone learn`" in words
    assert "of 39.7 GiB at least" in words and "engine.gpu_memory_share" in words


def advised(words: str) -> list[tuple[str, str, str]]:
    """Settings that a refusal names: section, key, value."""
    return re.findall(r"(engine|learner)\.(\w+) = (\"nf4\"|\w+)", words.partition(" A learner with")[0])


def test_each_change_that_is_advised_makes_it_fit_alone_or_all_together(tmp_path: Path, smi: Smi) -> None:
    def changed(by: list[tuple[str, str, str]]) -> Settings:
        sections: dict[str, dict[str, Any]] = {"engine": {"max_model_len": 16384, "max_lora_rank": 64}}
        for section, key, value in by:
            sections.setdefault(section, {})[key] = json.loads(value)
        return settings(tmp_path, EIGHT, **sections)

    smi("NVIDIA L40S, 47104, 46080")
    words = refused(changed([]))
    assert "It fits with learner.quantise" in words and advised(words) == [("learner", "quantise", '"nf4"')]
    with_memory_share(changed(advised(words)), learner=True)
    smi("NVIDIA, 36864, 36864")
    words = refused(changed([]))
    together = advised(words)
    assert "It fits with all of these: " in words and len(together) > 1
    with_memory_share(changed(together), learner=True)
    for one in together:  # none of them for nothing
        refused(changed([other for other in together if other is not one]))
    smi("NVIDIA, 33000, 33000")
    assert ("engine", "max_model_len", "65536") in advised(refused(settings(tmp_path, EIGHT), learner=False))


def test_hone_up_ends_with_the_refusal_before_anything_is_started(
    tmp_path: Path, smi: Smi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(SMALL_CARD)
    model = settings(tmp_path, EIGHT).engine.model
    words = ["up", "--engine", "vllm", "--model", model, "--home", str(tmp_path / "home")]
    monkeypatch.setattr("sys.argv", ["hone", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == SettingsError.exit_code and said.out == ""
    assert "doesn't fit the GPU" in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "home").exists()
