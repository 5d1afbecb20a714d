"""`hone base dequantise`: writes the model that an adapter trained against NF4 weights belongs on, in bfloat16.

Any engine serves it, and no plugin is needed: its linear layers hold exactly what NF4 gives back here. Tensors go from
shard to shard one at a time, so memory is bounded by the largest of them (and some working copies of it), not by the
model; the new folder appears complete or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from learner.nf4 import DEQUANTISED, quantised_layers, round_trip
from service.adapters.files import flush, writing
from service.adapters.fingerprint import base_fingerprint
from service.errors import BadInput, Conflict, StoreError

Progress = Callable[[int, int, str], None]
"""Hears which tensor of how many comes next."""

INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth")
_FLOATS = {"F64", "F32", "F16", "BF16"}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint, and how it is written: floating point becomes bfloat16."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path

    @property
    def written_as(self) -> str:
        return "BF16" if self.dtype in _FLOATS else self.dtype

    @property
    def bytes(self) -> int:
        return int(torch.Size(self.shape).numel()) * _BYTES[self.written_as]


@dataclass(frozen=True)
class Written:
    """What was written: how many of its tensors were quantised and back, and how large all of it is."""

    dequantised: int
    tensors: int
    bytes: int


def dequantise(model: Path, out: Path, progress: Progress) -> Written:
    """Write to the new folder `out` what `model`, a folder, is in NF4.

    Raises BadInput for what is no such model, Conflict when `out` exists, StoreError when the disk is full,
    TrainingFailed without bitsandbytes.
    """
    if out.exists():
        raise Conflict(f"{out} exists already.", "Choose another folder.")
    config = _check_source(model)
    sha256 = base_fingerprint(model)
    shards = [(file, _stored(file)) for file in _files(model)]
    tensors = [tensor for _, shard in shards for tensor in shard]
    layers = _find_layers(model, {tensor.name for tensor in tensors})
    size = sum(tensor.bytes for tensor in tensors)
    _check_room(out, size)
    with writing(out, "model") as unfinished:
        done = 0
        for file, shard in shards:
            with (unfinished / file.name).open("xb") as target:
                target.write(_header(shard))
                for tensor in shard:
                    progress(done, len(tensors), tensor.name)
                    _write(target, _content(tensor, layers.get(tensor.name)))
                    done += 1
                target.flush()
                os.fsync(target.fileno())
        _copy_the_rest(model, unfinished)
        _write_json(unfinished / "config.json", _in_bfloat16(config))
        if len(shards) > 1:
            weight_map = {tensor.name: tensor.file.name for tensor in tensors}
            _write_json(unfinished / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        _write_json(unfinished / DEQUANTISED, {"quantisation": "nf4", "base_sha256": sha256})
    progress(len(tensors), len(tensors), "done")
    return Written(len(layers), len(tensors), size)


def _check_source(model: Path) -> dict[str, Any]:
    """The model's configuration."""
    if not list(model.glob("*.safetensors")) and (pickles := [p.name for p in model.glob("*") if p.suffix in _PICKLES]):
        raise BadInput(f"{model}: {pickles[0]} is a pickle, which can run code.", "Convert it to safetensors first.")
    if (model / DEQUANTISED).exists():
        raise BadInput(f"{model} was dequantised already.", "Name the model that it was made from.")
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        quantised = config.get("quantization_config")
    except FileNotFoundError:
        raise BadInput(f"{model} is no model folder: it has no config.json.") from None
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{model / 'config.json'} can't be read: {error}.") from error
    if quantised:
        method = quantised.get("quant_method", "somehow") if isinstance(quantised, dict) else "somehow"
        raise BadInput(f"{model} is quantised already ({method}).", "Name the model as it was before.")
    return dict(config)


def _files(model: Path) -> list[Path]:
    """The model's shards, of which `base_fingerprint` has seen that none is missing."""
    if (model / INDEX).exists():
        weight_map = json.loads((model / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return [model / name for name in sorted(set(weight_map.values()))]
    whole = model / "model.safetensors"
    # Beside it some models have their weights once more, for another program.
    return [whole] if whole.exists() else sorted(model.glob("*.safetensors"))


def _stored(file: Path) -> list[Stored]:
    """What a shard holds, the widest numbers first, as the format wants them aligned."""
    found = []
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 (safe_open is no mapping)
            part = opened.get_slice(name)
            if (dtype := part.get_dtype()) not in _BYTES:
                raise BadInput(f"{file}: {name} is stored as {dtype}.", "Only plain checkpoints can be dequantised.")
            found.append(Stored(name, tuple(part.get_shape()), dtype, file))
    return sorted(found, key=lambda tensor: (-_BYTES[tensor.written_as], tensor.name))


def _find_layers(model: Path, names: set[str]) -> dict[str, bool]:
    """By tensor name, the layers that are quantised in training, and whether they are stored transposed."""
    try:
        layers = {f"{name}.weight": transposed for name, transposed in quantised_layers(model).items()}
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{model}: transformers knows no such causal language model: {error}.") from error
    if missing := layers.keys() - names:
        raise BadInput(
            f"{model} holds no {min(missing)}: its checkpoint names its layers otherwise than transformers does.",
            "Load it with transformers and save it again; then dequantise that.",
        )
    return layers


def _content(tensor: Stored, transposed: bool | None) -> Tensor:
    """A tensor as it is to be written; `transposed` None: it isn't quantised. The file is mapped for this long only."""
    with _opened(tensor.file) as opened:
        stored: Tensor = opened.get_tensor(tensor.name)
        if transposed is None:
            return stored.to(torch.bfloat16) if tensor.dtype in _FLOATS - {"BF16"} else stored.clone()
        return round_trip(stored.T).T if transposed else round_trip(stored)


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file} is damaged or unreadable: {error}.", "Fetch the model again.") from error


def _header(shard: list[Stored]) -> bytes:
    """The beginning of a safetensors file: its length, then names, types, shapes and places as JSON."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for tensor, (start, end) in zip(shard, _places(shard), strict=True):
        entries[tensor.name] = {"dtype": tensor.written_as, "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _places(shard: list[Stored]) -> Iterator[tuple[int, int]]:
    start = 0
    for tensor in shard:
        yield start, start + tensor.bytes
        start += tensor.bytes


def _write(target: Any, content: Tensor) -> None:
    target.write(content.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _check_room(out: Path, size: int) -> None:
    place = out.parent
    while not place.exists():
        place = place.parent
    if (free := shutil.disk_usage(place).free) < size:
        raise StoreError(f"{out} needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.", "Free some space.")


def _copy_the_rest(model: Path, target: Path) -> None:
    """Tokenizer, chat template, generation settings: everything that is no weight."""
    for path in sorted(model.iterdir()):
        written_otherwise = path.suffix in (".safetensors", *_PICKLES) or path.name in ("config.json", INDEX)
        if path.is_file() and not path.name.startswith(".") and not written_otherwise:
            shutil.copyfile(path, target / path.name)
            flush(target / path.name)


def _in_bfloat16(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "torch_dtype"} | {"dtype": "bfloat16"}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    flush(path)
