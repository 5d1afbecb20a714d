"""Models on disk: find the folder, read its configuration and its safetensors weights, without importing transformers.

Pickled weights (`.bin`, `.pt`) are never read: opening one can run code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from service.embedded.errors import EngineError
from service.settings import SPROUT
from service.settings.model_name import ADVICE, may_be_of_the_hub

DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True)
class Checkpoint:
    """A model folder and its parsed `config.json`."""

    path: Path
    config: dict[str, Any]

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures") or ["unknown"]
        return str(names[0])

    @property
    def text_config(self) -> dict[str, Any]:
        """The part that is about text, in models that also see or hear."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def max_positions(self) -> int | None:
        for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
            if isinstance(value := self.text_config.get(key), int):
                return value
        return None

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the weights are stored."""
        name = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return getattr(torch, str(name).removeprefix("torch."), torch.float32)

    def eos_token_ids(self) -> frozenset[int]:
        """Every token that ends a reply, from the generation config where there is one."""
        for source in (self._generation(), self.config):
            ids = source.get("eos_token_id")
            if ids is not None:
                return frozenset([ids] if isinstance(ids, int) else ids)
        return frozenset()

    def sampling_defaults(self) -> dict[str, float]:
        """How the model's makers say to sample from it, as far as they say."""
        names = ("temperature", "top_p", "top_k", "min_p")
        given = {name: self._generation().get(name) for name in names}
        return {name: float(value) for name, value in given.items() if value is not None}

    def _generation(self) -> dict[str, Any]:
        file = self.path / "generation_config.json"
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return content if isinstance(content, dict) else {}

    def weights(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """All tensors by name, in `dtype`, on the CPU."""
        tensors: dict[str, torch.Tensor] = {}
        for file in self.files():
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (safe_open is no mapping)
                        tensors[name] = opened.get_tensor(name).to(dtype)
            except (SafetensorError, OSError) as error:
                raise EngineError(f"{file} is damaged or unreadable ({error}); fetch the model again") from error
        return tensors

    def files(self) -> list[Path]:
        """The files of weights, all there. Raises EngineError, saying what to do."""
        index = self.path / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            files = [self.path / name for name in names]
        else:
            files = sorted(self.path.glob("*.safetensors"))
        if not files:
            raise EngineError(
                f"{self.path} holds no .safetensors weights; pickled weights (.bin) are never loaded",
                "Take a version of the model that has them, or convert it: transformers' save_pretrained writes them.",
            )
        if missing := [file.name for file in files if not file.is_file()]:
            raise EngineError(f"{self.path} lacks {', '.join(missing)}, which its index names; fetch the model again")
        return files


def open_checkpoint(model: str) -> Checkpoint:
    """The checkpoint that `model` means: `sprout`, a folder, or a hub name (downloaded once, then cached)."""
    path = SPROUT if model == "sprout" else Path(model).expanduser()
    if not path.is_dir():
        path = _download(model)
    config = path / "config.json"
    if not config.is_file():
        raise EngineError(f"{path} is no model folder: it has no config.json")
    try:
        return Checkpoint(path, json.loads(config.read_text()))
    except ValueError as error:
        raise EngineError(f"{config} is not valid JSON: {error}") from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    if not may_be_of_the_hub(name):
        raise EngineError(f"there is no model folder {name}")
    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED))
    except Exception as error:  # the hub raises a dozen unrelated classes; all mean that there is no model
        said = str(error).strip().partition("\n")[0].rstrip(". ")
        raise EngineError(f"{name!r} is neither a folder nor a model that the hub gave us ({said}).", ADVICE) from error
