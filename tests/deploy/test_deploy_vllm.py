"""`deploy/vllm/start.sh` starts vLLM with the options that `hone up --engine vllm` gives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import yaml

from service.engine_program import LLAMA_LAYERS, VLLM_MODULE, VLLM_RANKS, VLLM_SHUTDOWN_SECONDS, engine_program
from service.supervisor import Program
from tests.deploy.reading import DEPLOY, ROOT, env_file, settings_of, vllm_version
from tests.fixtures.waiting import PATIENCE

MODEL = {"HONE_ENGINE__MODEL": "Qwen/Qwen3-4B"}
ALL = MODEL | {
    "HONE_ENGINE__MAX_LORAS": "5",
    "HONE_ENGINE__MAX_LORA_RANK": "17",
    "HONE_ENGINE__MAX_MODEL_LEN": "4096",
    "HONE_ENGINE__GPU_MEMORY_SHARE": "0.85",
    "HONE_ENGINE__MAX_NUM_SEQS": "32",
    "HONE_ENGINE__DTYPE": "bfloat16",
    "HONE_ENGINE__WEIGHTS": "/models/Qwen3-4B-nf4",
    "HONE_ENGINE__VLLM_OPTIONS": "--enforce-eager --tokenizer 'a folder' --seed 1",
}


def start(tmp_path: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the script with a Python that prints its arguments and its environment instead of starting vLLM."""
    python = tmp_path / "python"
    says = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{says}" "$@"\n')
    python.chmod(0o755)
    return subprocess.run(
        ["bash", DEPLOY / "vllm" / "start.sh"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def started(tmp_path: Path, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    done = start(tmp_path, environment)
    assert done.returncode == 0, done.stderr
    arguments, seen = json.loads(done.stdout)
    return arguments, seen


def of_hone_up(environment: Mapping[str, str]) -> Program:
    chosen = {"HONE_ENGINE__KIND": "vllm", "HONE_ENGINE__VLLM_PYTHON": sys.executable}
    return engine_program(settings_of({**environment, **chosen}), 8000)


def options(arguments: Iterable[str]) -> set[tuple[str, ...]]:
    """Every option with its values."""
    found: list[list[str]] = []
    for word in arguments:
        if word.startswith("--"):
            found.append([])
        found[-1].append(word)
    return {tuple(one) for one in found}


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
@pytest.mark.parametrize("chosen", [MODEL, ALL], ids=["as little as possible", "everything"])
def test_the_script_gives_vllm_the_options_that_hone_up_gives_it(
    tmp_path: Path, chosen: dict[str, str], model_type: str
) -> None:
    """But for the one that only the CPU build needs, for which `hone up` reads the model's configuration."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    environment = chosen | {"HONE_ENGINE__MODEL": str(tmp_path)}
    arguments, seen = started(tmp_path, environment)
    theirs = of_hone_up(environment)
    assert arguments[:2] == ["-m", VLLM_MODULE] == ["-m", theirs.module]
    here = options(arguments[2:])
    assert ("--host", "0.0.0.0") in here  # others reach it, over a network of their own
    layers = {("--lora-target-modules", *LLAMA_LAYERS)} if model_type == "qwen3" else set()
    assert here - {("--host", "0.0.0.0")} == options(theirs.arguments) - {("--host", "127.0.0.1")} - layers
    assert layers <= options(theirs.arguments)
    assert not any("lora-target-modules" in name for name, *_ in here)
    of_the_cpu = {"VLLM_CPU_KVCACHE_SPACE", "PYTHONPATH"}  # the path leads to a plugin that mends vLLM without a GPU
    assert {name: seen.get(name) for name in set(theirs.environment) - of_the_cpu} == {
        name: value for name, value in theirs.environment.items() if name not in of_the_cpu
    }


def test_other_weights_are_served_under_the_models_name(tmp_path: Path) -> None:
    found = options(started(tmp_path, ALL)[0][2:])
    assert {("--model", "/models/Qwen3-4B-nf4"), ("--served-model-name", "Qwen/Qwen3-4B")} <= found


def test_every_container_has_longer_to_end_than_vllm_gives_its_replies() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    pods = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "vllm.yaml").read_text()))
    (spec,) = (one["spec"] for one in pods if one["kind"] == "StatefulSet")
    graces = [float(compose["x-vllm"]["stop_grace_period"].removesuffix("s"))]
    graces += [spec["template"]["spec"]["terminationGracePeriodSeconds"], of_hone_up(MODEL).stop_seconds]
    assert all(grace >= VLLM_SHUTDOWN_SECONDS + 10 for grace in graces)
    assert spec["minReadySeconds"] >= 10  # the next replica is stopped only when this one has its adapters back


def test_the_script_rounds_ranks_as_hone_up_does(tmp_path: Path) -> None:
    for rank in (1, 2, *(allowed + more for allowed in VLLM_RANKS[1:-1] for more in (0, 1)), VLLM_RANKS[-1]):
        environment = MODEL | {"HONE_ENGINE__MAX_LORA_RANK": str(rank)}
        arguments, _ = started(tmp_path, environment)
        assert options(arguments[2:]) >= {one for one in options(of_hone_up(environment).arguments) if "rank" in one[0]}


def test_parallel_sizes_and_the_port_are_handed_on(tmp_path: Path) -> None:
    sizes = {"TENSOR_PARALLEL_SIZE": "4", "DATA_PARALLEL_SIZE": "2", "PORT": "9000"}
    found = options(started(tmp_path, MODEL | sizes)[0][2:])
    assert {("--tensor-parallel-size", "4"), ("--data-parallel-size", "2"), ("--port", "9000")} <= found
    assert not any("parallel" in one[0] for one in options(started(tmp_path, MODEL)[0][2:]))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "HONE_ENGINE__MODEL"),
        ({"HONE_ENGINE__MODEL": "sprout"}, "sprout comes with Hone alone"),
        (MODEL | {"HONE_ENGINE__MAX_LORA_RANK": "513"}, "up to 512"),
        (MODEL | {"HONE_ENGINE__VLLM_OPTIONS": "--tokenizer 'a folder"}, "open quote"),
    ],
)
def test_what_can_not_be_started_is_told_in_one_line(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    done = start(tmp_path, environment)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]


def test_an_option_is_never_run(tmp_path: Path) -> None:
    arguments, _ = started(tmp_path, MODEL | {"HONE_ENGINE__VLLM_OPTIONS": "--seed $(id) --name '*'"})
    assert arguments[-4:] == ["--seed", "$(id)", "--name", "*"]


def test_every_settings_file_is_one_that_the_script_can_start_from(tmp_path: Path) -> None:
    for path in (DEPLOY / "hone.env", DEPLOY / "kubernetes" / "hone.env"):
        started(tmp_path, env_file(path))


def test_everything_names_the_version_of_vllm_that_is_tested() -> None:
    for path in (DEPLOY / "compose.yaml", DEPLOY / "kubernetes" / "vllm.yaml"):
        assert f"vllm/vllm-openai:v{vllm_version()}" in path.read_text(), path
    assert f"vllm-openai:v{vllm_version()}" in (ROOT / "docs" / "deploying.md").read_text()
