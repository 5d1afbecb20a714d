"""How a base model and the files of adapters come into memory, for `learner.backbone`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from learner import parallel
from service.errors import AdapterBroken
from service.settings import LearnerSettings

NO_ORDER = ".*ttention defaults to a non-deterministic algorithm"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def sum_in_one_order() -> None:
    """On a GPU, where sums are taken in any order unless told otherwise: the same seed should give the same adapter.

    Gradients of attention over long sequences may still differ in their last bits.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # all is written first
    warnings.filterwarnings("ignore", NO_ORDER)


def load_base(model_path: str | Path, settings: LearnerSettings, device: torch.device) -> Any:
    """The base on its device; of a base that is shared out, this process's part of it. Raises OSError, ValueError and
    TrainingFailed."""
    if settings.quantise == "nf4":
        from learner.nf4 import load_nf4  # bitsandbytes need not be there

        return load_nf4(model_path, device)
    dtype = torch.float32 if device.type == "cpu" else "auto"
    if settings.sharding == "full" and parallel.world() > 1:
        from learner.sharding import load_in_parts

        return load_in_parts(lambda: AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype), device)
    return AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).to(device)


def lora_config(folder: Path | None, settings: LearnerSettings) -> LoraConfig:
    """The parent's configuration, or a new one from the settings."""
    if folder is None:
        return LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, bias="none", target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
    if not (folder / ADAPTER_CONFIG).is_file():  # PEFT would take the folder for a hub name
        raise AdapterBroken(f"{folder} is no adapter folder: it has no {ADAPTER_CONFIG}.")
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterBroken(f"{folder / ADAPTER_CONFIG} can't be read: {error}.") from error
    config.inference_mode = False
    return config


def load_adapter(model: PeftModel, role: str, folder: Path) -> None:
    try:
        result = set_peft_model_state_dict(model, load_file(folder / ADAPTER_WEIGHTS), adapter_name=role)
    except Exception as error:  # safetensors and torch raise many kinds; all mean that the file is no good
        raise AdapterBroken(f"{folder / ADAPTER_WEIGHTS} can't be loaded: {error}.") from error
    missing = [name for name in result.missing_keys if f".{role}." in name]
    if missing or result.unexpected_keys:
        raise AdapterBroken(
            f"{folder / ADAPTER_WEIGHTS} does not fit this base: {(missing or result.unexpected_keys)[0]}."
        )
