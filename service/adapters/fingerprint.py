"""Telling base models apart: an adapter only fits the very weights that it was trained on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

from service.errors import BadInput

_INDEX = "model.safetensors.index.json"
_PART = re.compile(r".+-of-\d+\.safetensors")
_WHOLE_BELOW = 64 << 20  # bytes: smaller files are hashed whole
_BLOCKS, _BLOCK = 256, 256 << 10  # of larger ones so many blocks of so many bytes, evenly spread


class LocalModel:
    """A base model's files on this machine, which may come only while Hone runs: vLLM downloads what it serves.

    What isn't there, completely, is looked for again whenever somebody asks; what was found is remembered, until
    somebody doubts it. Looking and hashing read files: ask beside the event loop.
    """

    def __init__(self, model: str | Path | None) -> None:
        """`model`: a folder or a hub name; None: there is nothing to be found."""
        self._model = model
        self._folder: Path | None = None
        self._sha256: str | None = None
        self._looking = Lock()  # who asks meanwhile has what is found

    def folder(self) -> Path | None:
        with self._looking, suppress(BadInput, OSError):  # OSError: a file that is just being replaced
            if self._folder is None and self._model is not None:
                folder = model_folder(self._model)
                _files(folder)
                self._folder = folder
        return self._folder

    @property
    def known_sha256(self) -> str | None:
        """Its fingerprint, if that was found already; looks at no file."""
        return self._sha256

    def sha256(self, anew: bool = False) -> str | None:
        """Its fingerprint. `anew`: a file may have been growing when it was hashed, a hub name may lead elsewhere."""
        if anew:
            with self._looking:
                self._folder = self._sha256 = None
        folder = self.folder()
        with self._looking, suppress(BadInput, OSError):
            if self._sha256 is None and folder is not None:
                self._sha256 = base_fingerprint(folder)
        return self._sha256


def base_fingerprint(model: str | Path) -> str:
    """SHA-256 over a base model's `config.json` and weights; of large files, over the size and 64 MiB spread evenly.

    `model`: a folder, or the hub name of a model that is in the local hub cache. Raises BadInput when it is neither,
    or isn't complete.
    """
    digest = hashlib.sha256()
    for path in _files(model_folder(model)):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        _add(digest, path)
    return digest.hexdigest()


def fingerprint_if_known(model: str | Path) -> str | None:
    """`base_fingerprint`; None where that can't be had, as of a model that training fetches."""
    try:
        return base_fingerprint(model)
    except BadInput:
        return None


def model_folder(model: str | Path) -> Path:
    """The local folder of a model given by folder or hub name. Raises BadInput when there is none."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # only for hub names: it takes its time to import
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise BadInput(
            f"The model {str(model)!r} is neither a folder nor in the local hub cache.",
            "Start the engine with it once.",
        ) from error


def _files(folder: Path) -> list[Path]:
    """A model's configuration and weights. Raises BadInput while they are not all there."""
    config, weights = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not weights:
        raise BadInput(f"{folder} holds no model: config.json and *.safetensors are needed.", "Check engine.model.")
    if missing := _named_in_index(folder, weights) - {path.name for path in weights}:
        raise BadInput(
            f"{folder} lacks {min(missing)}: the model isn't completely downloaded.", "Wait, or fetch it again."
        )
    return [config, *weights]


def _named_in_index(folder: Path, weights: Sequence[Path]) -> set[str]:
    """The files that a model in several parts consists of; the index itself, where there are parts without one."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        return set(index["weight_map"].values())
    except FileNotFoundError:
        return {_INDEX} if any(_PART.fullmatch(path.name) for path in weights) else set()
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(f"{folder}: {_INDEX} is damaged ({error}).", "Fetch the model again.") from error


def _add(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BELOW:
            digest.update(file.read())
            return
        for block in range(_BLOCKS):
            file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
