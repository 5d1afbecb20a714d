"""How far a stage is, in one file: all that decides the rest of it, so that a killed run goes on as if it never died.

A stage keeps what it has, part by part (mappings, lists, numbers, words and tensors); each time the whole file is
written anew and renamed. It says which training it is of, and carries a digest of what it holds: one of another
training, one that was cut short or has a bit flipped is never gone on from, and the run's log says so. A checkpoint
that can't be written costs nothing but the way back.

    checkpoint = StageCheckpoint(path, fingerprint((base, settings, examples), backbone.adapter_state()))
    if kept := checkpoint.part("course"): …
    checkpoint.keep("course", lambda: {"step": step, "policy": backbone.adapter_state()})
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from learner import parallel
from learner.weights_file import write_tensors

log = logging.getLogger("hone.learner")

VERSION = "5"
"""Of what the parts hold; another one is of another training."""
TENSOR = "tensor"
"""What stands in a tensor's place: this, with its name."""

Parts = dict[str, Any]


class StageCheckpoint:
    """See the module's docstring. Without a `path` nothing is kept. Where several processes train, the first alone
    reads and writes, and all go on from what it read.

    `of`: what decides the training, as `fingerprint` gives it. `every_seconds`: how long at least from one writing to
    the next.
    """

    def __init__(self, path: Path | None = None, of: str = "", every_seconds: float = 0.0) -> None:
        self._path, self._of, self._every = path, f"{VERSION} {of}", every_seconds
        self._parts: Parts = {} if path is None else parallel.from_first(self._read)
        self._written = time.monotonic()
        self._warned = False

    def part(self, name: str) -> dict[str, Any]:
        """What was kept under this name, by an earlier attempt perhaps; empty when nothing was."""
        found: dict[str, Any] = self._parts.get(name, {})
        return found

    def keep(self, name: str, make: Callable[[], Mapping[str, Any]], *, now: bool = False) -> None:
        """Keep what `make` gives, if it is time to, or `now`; it is asked only then. Tensors must be copies."""
        due = now or time.monotonic() - self._written >= self._every
        if self._path is None or not parallel.is_first() or not due:
            return
        self._parts[name] = dict(make())
        try:
            _write(self._path, self._of, self._parts)
            self._warned = False
        except OSError as error:
            if not self._warned:
                _warn(self._path, error)
            self._warned = True
        self._written = time.monotonic()

    def hold(self, name: str, part: Mapping[str, Any]) -> None:
        """Have this written together with the next part that is kept. Its tensors must be copies."""
        self._parts[name] = dict(part)

    def remove(self) -> None:
        """The stage is over."""
        if self._path is not None and parallel.is_first():
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._parts = {}

    def _read(self) -> Parts:
        assert self._path is not None
        try:
            return _read(self._path, self._of)
        except FileNotFoundError:
            pass
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is of no use, so this stage begins again: %s", self._path, error)
        return {}


def read_result(path: Path) -> dict[str, Tensor]:
    """The policy after a stage that an earlier attempt finished; nothing where none did, or it is damaged."""
    try:
        return load_file(path) if path.exists() else {}
    except (OSError, SafetensorError) as error:
        log.warning("%s is of no use, so this stage begins again: %s", path, error)
        return {}


def keep_result(state: Mapping[str, Tensor], path: Path) -> bool:
    """Keep the policy after a stage; whether that was possible."""
    try:
        write_tensors(state, path)
    except OSError as error:
        _warn(path, error)
        return False
    return True


def _warn(path: Path, error: OSError) -> None:
    """Of a full disk, for one. The training itself needs no checkpoint: what it made it has in memory."""
    log.warning(
        "%s can't be written (%s). It goes on; if it were killed it would repeat more. Free some space.",
        path,
        error.strerror or error,
    )


def fingerprint(facts: object, weights: Mapping[str, Tensor]) -> str:
    """Of whatever decides a training: what `repr` says of the facts, and the weights that it starts from."""
    return _digest(repr(facts), weights)


def set_random(rng: Random, kept: list[Any]) -> None:
    """To a state that `getstate` gave before it was kept."""
    version, numbers, gauss = kept
    rng.setstate((version, tuple(numbers), gauss))


def _write(path: Path, of: str, parts: Parts) -> None:
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_apart(parts, tensors))
    write_tensors(tensors, path, {"of": of, "parts": plain, "sha256": _digest(plain, tensors)})


def _read(path: Path, of: str) -> Parts:
    """Raises FileNotFoundError, OSError, SafetensorError, KeyError, and ValueError for what can't be gone on from."""
    if not path.exists():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata["of"] != of:
            raise ValueError("it is of another training (other settings, feedback, base or adapter).")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    if metadata["sha256"] != _digest(metadata["parts"], tensors):
        raise ValueError("it is damaged.")
    parts: Parts = _together(json.loads(metadata["parts"]), tensors)
    return parts


def _apart(tree: Any, tensors: dict[str, Tensor], place: str = "") -> Any:
    """What JSON can say of it; its tensors go into `tensors`."""
    if isinstance(tree, Tensor):
        tensors[place] = tree.contiguous()
        return {TENSOR: place}
    if isinstance(tree, Mapping):
        return {name: _apart(inner, tensors, f"{place}/{name}") for name, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return [_apart(inner, tensors, f"{place}/{number}") for number, inner in enumerate(tree)]
    return tree


def _together(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, dict):
        if plain.keys() == {TENSOR}:
            return tensors[plain[TENSOR]]
        return {name: _together(inner, tensors) for name, inner in plain.items()}
    if isinstance(plain, list):
        return [_together(inner, tensors) for inner in plain]
    return plain


def _digest(plain: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(plain.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
