"""The engine that `hone up` starts: which program it is, and the options that the settings come to.

Both engines speak the same HTTP API. vLLM lives in an interpreter of its own where it can't share ours: it pins many
packages.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from service.errors import SettingsError
from service.installed import require_learner_packages
from service.model_shape import LLAMA_FAMILY, read_config
from service.settings import EngineSettings, Settings
from service.settings.model_name import may_be_of_the_hub
from service.supervisor import Program
from service.vllm_options import LOGPROBS_MODE, check_options, split_options

VLLM_MODULE = "vllm.entrypoints.openai.api_server"
"""Not the `vllm` command, which fails in the CPU build: it looks for a distribution of another name."""

VLLM_PYTHON = Path(__file__).resolve().parent.parent / ".venv-vllm" / "bin" / "python"
"""Where `make vllm` puts vLLM's CPU build."""

VLLM_PLUGIN = Path(__file__).with_name("vllm_plugin")
"""Put on vLLM's path: what it does wrong without a GPU, put right."""

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's --max-lora-rank takes."""

USUAL_SHARE = 0.6
"""Of the GPU's memory vLLM takes so much where it isn't known what would be right."""

VLLM_SHUTDOWN_SECONDS = 60
"""For so long after SIGTERM vLLM goes on with the replies that it has begun; without, it ends them at once. Those that
come meanwhile it gives up, and another engine is asked."""
VLLM_STOP_SECONDS = VLLM_SHUTDOWN_SECONDS + 15.0

LLAMA_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What an adapter of ours changes in a model of the Llama family."""


def engine_program(settings: Settings, port: int) -> Program:
    """The engine that the settings ask for, listening on loopback. Raises SettingsError when it can't be started."""
    return _vllm(settings, port) if settings.engine.kind == "vllm" else _embedded(settings.engine, port)


def _embedded(engine: EngineSettings, port: int) -> Program:
    require_learner_packages("The embedded engine", ", or name an engine elsewhere with --engine-url")
    options = {
        "--model": engine.weights or engine.model,
        "--served-model-name": engine.model,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": engine.dtype,
        "--max-model-len": engine.max_model_len,
        "--kv-cache-gib": engine.kv_cache_gib,
        "--max-num-seqs": engine.max_num_seqs,
        "--max-loras": engine.max_loras,
        "--max-lora-rank": engine.max_lora_rank,
        "--threads": engine.threads,
    }
    return Program("engine", "service.embedded", _flags(options), 15.0, ready_url=_health(port))


def _vllm(settings: Settings, port: int) -> Program:
    engine, further = settings.engine, split_options(settings.engine.vllm_options)
    check_options(further)
    options = {
        "--model": engine.weights or settings.model_path,
        "--served-model-name": engine.model,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": engine.dtype,
        "--max-model-len": engine.max_model_len,
        "--gpu-memory-utilization": engine.gpu_memory_share or USUAL_SHARE,
        "--max-num-seqs": engine.max_num_seqs,
        "--max-loras": engine.max_loras,
        "--max-lora-rank": vllm_rank(engine.max_lora_rank),
        # Else vLLM cuts every reply to the length in the model's generation_config.json, whatever was asked for.
        "--override-generation-config": '{"max_new_tokens": null}',
        "--logprobs-mode": LOGPROBS_MODE,  # what is trained on
        "--shutdown-timeout": VLLM_SHUTDOWN_SECONDS,
    }
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(VLLM_PLUGIN), os.environ.get("PYTHONPATH")))),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": str(math.ceil(engine.kv_cache_gib)),  # only the CPU build reads it
        "VLLM_NO_USAGE_STATS": "1",
    }
    return Program(
        "engine",
        VLLM_MODULE,
        [
            *_flags(options),
            "--enable-lora",
            "--disable-uvicorn-access-log",
            *_lora_layers(settings),
            *further,
        ],
        stop_seconds=VLLM_STOP_SECONDS,
        python=str(find_vllm_python(engine)),
        environment=environment,
        ready_url=_health(port),
    )


def _lora_layers(settings: Settings) -> list[str]:
    """Keep vLLM's LoRA to the layers that are trained, where their names are known: in a folder, the hub or its cache.

    Else it wraps the output layer too, whose code in the CPU build of 0.32 ends the engine when a text is scored
    (`prompt_logprobs`) in one step with another request.
    """
    known = read_config(settings.model_path).get("model_type") in LLAMA_FAMILY
    return ["--lora-target-modules", *LLAMA_LAYERS] if known else []


def check_folders(settings: Settings) -> None:
    """See that what vLLM is to serve is there, which it takes a minute to find out itself. Raises SettingsError.

    The embedded engine says so at once; what a hub has is for vLLM to see.
    """
    if settings.engine.urls or settings.engine.kind != "vllm":
        return
    model, weights = settings.model_path, settings.engine.weights
    for folder, setting in ((model, "engine.model (--model)"), (weights, "engine.weights")):
        if folder is None or (folder == model and may_be_of_the_hub(model) and not Path(folder).is_dir()):
            continue
        if not Path(folder).is_dir():
            raise SettingsError(f"There is no model folder {folder}.", f"Name another in {setting}.")
        if not (Path(folder) / "config.json").is_file():
            raise SettingsError(f"{folder} is no model folder: it has no config.json.", f"Name another in {setting}.")


def find_vllm_python(engine: EngineSettings, beside_project: Path = VLLM_PYTHON, platform: str = sys.platform) -> Path:
    """The interpreter that has vLLM. Raises SettingsError, which says how to get one."""
    if platform != "linux":
        raise SettingsError(
            "`hone up` can start vLLM on Linux alone.", "Run it elsewhere and name it with --engine-url."
        )
    if engine.vllm_python is not None:
        chosen = Path(engine.vllm_python).expanduser()
        if not os.access(chosen, os.X_OK) or chosen.is_dir():
            raise SettingsError(
                f"engine.vllm_python names no program: {chosen}.", "Name the Python interpreter that has vLLM."
            )
        return chosen
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    if beside_project.exists():
        return beside_project
    raise SettingsError(
        "vLLM is not installed.",
        "In the project's folder, with a GPU: pip install '.[vllm]'; without one: `make vllm`. Or name another "
        "interpreter that has it with engine.vllm_python.",
    )


def vllm_rank(rank: int) -> int:
    """The smallest of vLLM's values that such an adapter fits into."""
    for allowed in VLLM_RANKS:
        if rank <= allowed:
            return allowed
    raise SettingsError(f"vLLM serves LoRA ranks up to {VLLM_RANKS[-1]}, not {rank}.", "Lower engine.max_lora_rank.")


def _health(port: int) -> str:
    return f"http://127.0.0.1:{port}/health"


def _flags(options: Mapping[str, object]) -> list[str]:
    """As on a command line; what is None is left to the program."""
    return [str(part) for option in options.items() if option[1] is not None for part in option]
