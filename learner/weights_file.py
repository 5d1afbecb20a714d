"""Tensors in a file that is there whole or not at all; whatever the disk has against that is an OSError.

safetensors has an error of its own for a full disk, which nobody who waits for an OSError would catch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_NUMBER = re.compile(r"os error (\d+)")
"""How safetensors names the system's error in its own."""


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write under another name, flush, rename. Raises OSError; then what was there before is there still, and nothing
    of the new file, which might be what fills the disk."""
    unfinished = path.with_name(path.name + ".partial")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # by the umask; safetensors' own would be its owner's alone
        save_file(dict(tensors), unfinished, dict(metadata) if metadata else None)
        unfinished.chmod(mode)
        flush(unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise _of_the_disk(error, path) from error


def flush(path: Path) -> None:
    """To the disk, so that a power cut after the renaming leaves no empty file under the final name."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _of_the_disk(error: OSError | SafetensorError, path: Path) -> OSError:
    """With the system's number where there is one, and the file that was to be."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error), str(path))
    found = _NUMBER.search(str(error))
    number = int(found[1]) if found else 0
    return OSError(number, os.strerror(number) if found else str(error), str(path))
