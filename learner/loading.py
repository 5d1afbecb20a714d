"""How a base model and the files of adapters come into memory, for `learner.backbone`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from learner import parallel
from service.adapters.fingerprint import model_folder
from service.errors import AdapterBroken, BadInput, TrainingFailed
from service.settings import LearnerSettings

NO_ORDER = ".*ttention defaults to a non-deterministic algorithm"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ANOTHER = f"Name a folder that training wrote, with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}."
AGAIN = "It is cut short or damaged: copy it again from where it came from, or take another adapter."


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
    """The parent's configuration, or a new one from the settings. Raises AdapterBroken where it can't be read, or isn't
    that of the weights beside it."""
    if folder is None:
        return LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, bias="none", target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
    if not (folder / ADAPTER_CONFIG).is_file():  # PEFT would take the folder for a hub name
        why = f"it has no {ADAPTER_CONFIG}" if folder.is_dir() else "there is none of that name"
        raise AdapterBroken(f"{folder} is no adapter folder: {why}.", ANOTHER)
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterBroken(f"{folder / ADAPTER_CONFIG} can't be read: {error}.", AGAIN) from error
    if config.use_dora:
        raise AdapterBroken(
            f"{folder} is a DoRA adapter ({ADAPTER_CONFIG} says use_dora), which neither training nor engines support.",
            "Start from the base, or from a plain LoRA adapter.",
        )
    config.inference_mode = False
    _check_rank(folder, config)
    return config


def _check_rank(folder: Path, config: LoraConfig) -> None:
    """Whether the weights have the rank that the configuration says, where that is one number. Raises AdapterBroken."""
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            names = [name for name in file.keys() if ".lora_A." in name]  # noqa: SIM118 (safe_open is no mapping)
            ranks = {rank for name in names for rank in file.get_slice(name).get_shape()[:1]}  # A is (rank, in)
    except (OSError, SafetensorError) as error:
        hint = AGAIN if (folder / ADAPTER_WEIGHTS).exists() else ANOTHER
        raise AdapterBroken(f"{folder / ADAPTER_WEIGHTS} can't be loaded: {error}.", hint) from error
    if ranks - {config.r} and not config.rank_pattern:
        raise AdapterBroken(
            f"{folder}: {ADAPTER_CONFIG} says rank {config.r} (r), and the weights in {ADAPTER_WEIGHTS} have rank "
            f"{' and '.join(map(str, sorted(ranks)))}.",
            "Put both files of one training there; where only the number is wrong, set r to the rank of the weights.",
        )


def load_adapter(model: PeftModel, role: str, folder: Path) -> None:
    """Raises AdapterBroken where the weights can't be read, aren't finite, or aren't of the model's shapes."""
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
        check_weights(weights, folder / ADAPTER_WEIGHTS)
        result = set_peft_model_state_dict(model, weights, adapter_name=role)
    except AdapterBroken:
        raise
    except Exception as error:  # safetensors and torch raise many kinds; all mean that the file is no good
        raise AdapterBroken(f"{folder / ADAPTER_WEIGHTS} can't be loaded: {_in_short(error)}.", AGAIN) from error
    missing = [name for name in result.missing_keys if f".{role}." in name]
    if missing or result.unexpected_keys:
        raise AdapterBroken(
            f"{folder / ADAPTER_WEIGHTS} does not fit this base: {(missing or result.unexpected_keys)[0]}.",
            "Start from an adapter that was trained on this base, or from the base.",
        )


def check_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises AdapterBroken where one of these, which were read from `path`, is NaN or infinite."""
    for name, tensor in weights.items():
        if found := _not_finite(name, tensor, path):
            raise AdapterBroken(
                found,
                "The training that made it diverged, or the file is damaged: take another adapter, or train it anew "
                "at a lower learning rate.",
            )


@contextmanager
def on_a_sound_base(model_path: str | Path) -> Iterator[None]:
    """Where the training in this block fails, and the base's own weights aren't all finite, that is said instead: no
    learning rate would help. Raises TrainingFailed, with the first tensor that is at fault."""
    try:
        yield
    except (TrainingFailed, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]  # torch lists it not
        if found := _wrong_in_base(model_path):
            raise TrainingFailed(
                found, "No adapter can be trained on such a base: fetch or make its files anew, or name another model."
            ) from error
        raise


def _wrong_in_base(model_path: str | Path) -> str:
    """By its files, which are the same whatever a training makes of them; empty where these can't be read."""
    try:
        for path in sorted(model_folder(model_path).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    if found := _not_finite(name, file.get_tensor(name), path):
                        return found
    except (BadInput, OSError, SafetensorError):
        pass
    return ""


def _not_finite(name: str, tensor: Tensor, path: Path) -> str:
    """What is to be said of a tensor that holds NaN or infinity; empty for any other."""
    values = tensor.float() if tensor.itemsize < 2 else tensor  # torch doesn't ask float8
    wrong = int((~values.isfinite()).sum())
    return f"{path} has weights that aren't finite: {wrong} of {tensor.numel()} in {name}." if wrong else ""


def _in_short(error: Exception) -> str:
    """In one line: torch names every tensor of another shape, each in a line after its first."""
    first, *more = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return first if not more else f"{more[0]}" + (f", and {len(more) - 1} more like that" if len(more) > 1 else "")
