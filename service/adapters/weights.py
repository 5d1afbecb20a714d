"""LoRA weights without torch: a safetensors file's header is read and held against what the adapter says it is.

The format (safetensors, "Format"): 8 bytes little-endian length N, N bytes of JSON ({name: {dtype, shape,
data_offsets}}), then the tensors, end to end. Nothing in it can run code, which is why nothing else is taken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.adapters.manifest import UNFINISHED
from service.errors import AdapterBroken, AdapterUnreachable

RESTORE = "Put the folder back from a backup, or learn again and promote the new version."

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_LORA_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_CHUNK = 1 << 22  # numbers looked at together


def broken(path: Path, what: str) -> AdapterBroken:
    """The error about one file of an adapter."""
    return AdapterBroken(f"Adapter {_name(path.parent)}: {path.name} {what}.", RESTORE)


def unreadable(folder: Path, what: str, error: OSError) -> AdapterUnreachable:
    """The error about something in an adapter's folder that may be sound, but can't be read now."""
    return AdapterUnreachable(
        f"Adapter {_name(folder)}: {what} can't be read: {error.strerror or error}.",
        "Check the disk, what Hone's user may read, and how many files it may have open.",
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """For reading one file of an adapter in. Raises AdapterBroken when it isn't there.

    Whatever else goes wrong (too many open files, a failing disk, a stale mount, no right to read) may pass and says
    nothing about the adapter: AdapterUnreachable.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise broken(path, "is missing") from error
    except OSError as error:
        raise unreadable(path.parent, path.name, error) from error


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `start` and `end` count bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of an adapter's safetensors file.

    Raises AdapterBroken when it is missing, truncated or isn't one, AdapterUnreachable when it can't be read now.
    """
    with reading(path):
        return _header(path)


def _header(path: Path) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise broken(path, "is truncated or isn't a safetensors file")
        try:
            header = json.loads(file.read(length))
            tensors = {name: _tensor(entry, 8 + length) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise broken(path, f"has a header that isn't safetensors ({type(error).__name__})") from error
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != end:
            raise broken(path, f"has a gap or an overlap before tensor {name}")
        end = tensor.end
    if end != size:
        raise broken(path, f"has {size} bytes, and its tensors need {end}")
    return tensors


def check_lora(
    path: Path, rank: int, target_modules: Collection[str], base_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> None:
    """Check that the file is a LoRA of that rank on those modules: A (rank, in) with its B (out, rank), all finite.

    `base_shapes`: (out, in) of the base's weights by name, as far as they are known. Raises AdapterBroken,
    AdapterUnreachable.
    """
    tensors = read_header(path)
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        match = _LORA_NAME.fullmatch(name)
        if match is None or not any(_is_module(match["module"], target) for target in target_modules):
            raise broken(path, f"has the tensor {name}, which is no LoRA weight of {', '.join(target_modules)}")
        if tensor.dtype not in _DTYPE_BYTES:
            raise broken(path, f"has {name} in {tensor.dtype}, which engines don't serve")
        halves.setdefault(match["module"], {})[match["half"]] = tensor.shape
    if missing := [t for t in target_modules if not any(_is_module(module, t) for module in halves)]:
        raise broken(path, f"has no weights for {', '.join(missing)}")
    for module, shapes in halves.items():
        _check_pair(path, module, shapes, rank, (base_shapes or {}).get(f"{module}.weight"))
    with reading(path):
        for name, tensor in tensors.items():
            if not _is_finite(path, tensor):
                raise broken(path, f"has numbers in {name} that are infinite or not numbers")


def base_shapes(model_folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a base model's weights by name; empty when the folder holds no safetensors files.

    Raises AdapterUnreachable when they can't be read, or aren't all there yet, which is no fault of an adapter's.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for path in sorted(model_folder.glob("*.safetensors")):
            shapes |= {name: tensor.shape for name, tensor in _header(path).items()}
    except (OSError, AdapterBroken) as error:
        why = error.strerror or error if isinstance(error, OSError) else "a file is damaged, or still being written"
        raise AdapterUnreachable(f"The base model's weights can't be read: {why}.", f"Check {model_folder}.") from error
    return shapes


def _name(folder: Path) -> str:
    """An adapter's name, by its folder, which may be one that is still being written."""
    name = folder.name
    return name.removeprefix(UNFINISHED).split("-")[0] if name.startswith(UNFINISHED) else name


def _tensor(entry: Any, data_start: int) -> TensorInfo:
    """In a base, which may be quantised or hold more than weights, other dtypes than an adapter's are sound, too."""
    start, end = (data_start + int(offset) for offset in entry["data_offsets"])
    tensor = TensorInfo(entry["dtype"], tuple(int(size) for size in entry["shape"]), start, end)
    if min((*tensor.shape, start - data_start, end - start)) < 0:
        raise ValueError(entry)
    if tensor.dtype in _DTYPE_BYTES and end - start != math.prod(tensor.shape) * _DTYPE_BYTES[tensor.dtype]:
        raise ValueError(entry)
    return tensor


def _is_module(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _check_pair(
    path: Path, module: str, shapes: dict[str, tuple[int, ...]], rank: int, base: tuple[int, ...] | None
) -> None:
    if set(shapes) != {"A", "B"}:
        raise broken(path, f"has only one half (lora_{''.join(shapes)}) for {module}")
    a, b = shapes["A"], shapes["B"]
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise broken(path, f"has A {a} and B {b} for {module}, which is not rank {rank}")
    if base is not None and (b[0], a[1]) != base:
        raise broken(path, f"changes {module} by ({b[0]}, {a[1]}), but the base has {base} there")


def _is_finite(path: Path, tensor: TensorInfo) -> bool:
    """bfloat16 is unknown to numpy: its number is infinite or none when all 8 bits of the exponent are set."""
    count = math.prod(tensor.shape)
    kind = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tensor.dtype]
    for first in range(0, count, _CHUNK):
        offset = tensor.start + first * _DTYPE_BYTES[tensor.dtype]
        numbers = np.fromfile(path, kind, min(_CHUNK, count - first), offset=offset)
        finite = (numbers & 0x7F80) != 0x7F80 if tensor.dtype == "BF16" else np.isfinite(numbers)
        if not finite.all():
            return False
    return True
