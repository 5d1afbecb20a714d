"""Telling base models apart: an adapter only fits the very weights that it was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from service.errors import BadInput

_WHOLE_BELOW = 64 << 20  # bytes: smaller files are hashed whole
_BLOCKS, _BLOCK = 256, 256 << 10  # of larger ones so many blocks of so many bytes, evenly spread


def base_fingerprint(model: str | Path) -> str:
    """SHA-256 over a base model's `config.json` and weights; of large files, over the size and 64 MiB spread evenly.

    `model`: a folder, or the hub name of a model that is in the local hub cache. Raises BadInput when it is neither,
    or isn't complete.
    """
    folder = model_folder(model)
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    if not files[0].is_file() or len(files) == 1:
        raise BadInput(f"{folder} holds no model: config.json and *.safetensors are needed.", "Check engine.model.")
    if missing := _named_in_index(folder) - {path.name for path in files}:
        raise BadInput(
            f"{folder} lacks {min(missing)}: the model isn't completely downloaded.", "Wait, or fetch it again."
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        _add(digest, path)
    return digest.hexdigest()


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


def _named_in_index(folder: Path) -> set[str]:
    """The files that a model in several parts consists of."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return set(index["weight_map"].values())
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(
            f"{folder}: model.safetensors.index.json is damaged ({error}).", "Fetch the model again."
        ) from error


def _add(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BELOW:
            digest.update(file.read())
            return
        for block in range(_BLOCKS):
            file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
