"""The folder that a training on texts writes: a new one, there as a whole or not at all.

check_out("my-adapter")  # before the training
with writing_out("my-adapter", "my-run") as unfinished:
    trainer.save(unfinished, lessons)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from service.errors import BadInput, StoreError


def check_out(out: str | Path) -> None:
    """Raises BadInput where there is an `out` already, and where none can be made. What was made to try it is removed,
    and a folder above that wasn't there is not made yet."""
    try:
        if os.path.lexists(Path(out)):
            raise BadInput(f"There is something at {out} already.", "Name a folder that isn't there yet.")
        unfinished = _unfinished(out).resolve()
        above = next(folder for folder in unfinished.parents if folder.exists())
        with TemporaryDirectory(dir=above) as tried:
            (tried / unfinished.relative_to(above)).mkdir(parents=True)
    except OSError as error:
        raise BadInput(
            f"No folder can be made at {out}: {error.strerror or error}.",
            "Name one in a place where you may write, and where there is space.",
        ) from error


@contextmanager
def writing_out(out: str | Path, run_folder: str | Path | None) -> Iterator[Path]:
    """Where it is to be written before it is whole; after the block it is renamed, or else removed. Raises StoreError
    where the disk is full, or lets nobody write."""
    unfinished = _unfinished(out)
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed call
    try:
        yield unfinished
        unfinished.rename(out)
    except OSError as error:
        kept = (
            "give it a run_folder, which keeps on the way what is trained"
            if run_folder is None
            else f"it goes on from what {run_folder} keeps of the training"
        )
        raise StoreError(
            f"{error.filename or out} can't be written: {error.strerror or error}.",
            f"Free some space and see that you may write there. Then call again: {kept}.",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished(out: str | Path) -> Path:
    return Path(out).with_name(Path(out).name + ".partial")
