"""An adapter in one file, to carry it to another home: a plain tar of its folder's files, without folders in it."""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import IO, cast

from service.adapters.files import check_folder, flush
from service.adapters.judge import MOST_BYTES
from service.adapters.manifest import CONFIG, JUDGE, MANIFEST, REPORT, WEIGHTS
from service.errors import BadInput, Conflict, StoreError

MEMBERS = (MANIFEST, CONFIG, WEIGHTS, REPORT, JUDGE)

MAX_BYTES = {WEIGHTS: 16 << 30, MANIFEST: 64 << 20, CONFIG: 1 << 20, REPORT: 64 << 20, JUDGE: MOST_BYTES}
"""What is larger is no file of an adapter."""


def export_folder(folder: Path, archive: Path) -> None:
    """Write an adapter's folder, checked, to a tar file; nobody sees half of it. Raises Conflict if it exists."""
    files = check_folder(folder).files
    if archive.exists():
        raise Conflict(f"{archive} exists already.", "Choose another name.")
    unfinished = archive.with_name(f".{archive.name}-{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for name in (MANIFEST, *(name for name in MEMBERS if name in files)):
                    tar.add(folder / name, arcname=name, recursive=False, filter=_anonymous)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(archive)
        flush(archive.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StoreError(f"Can't write {archive}: {error.strerror or error}.", "Choose another place.") from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an exported adapter into an existing, empty folder.

    Only the files of an adapter are taken, under their own names and as plain files: an archive with anything else in
    it (a path, a link, a device, a pickle, something huge) is refused as a whole. Raises BadInput, StoreError.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:
            members = tar.getmembers()
            for member in members:
                _check_member(archive, member)
            if len({member.name for member in members}) != len(members):
                raise BadInput(f"{archive}: a file is in there twice.", "Export the adapter again.")
            for member in members:
                packed = cast(IO[bytes], tar.extractfile(member))  # None only for what is no plain file
                with packed, (folder / member.name).open("xb") as file:
                    shutil.copyfileobj(packed, file)
    except FileNotFoundError:
        raise BadInput(f"There is no file {archive}.") from None
    except IsADirectoryError:
        uri = archive.resolve().as_uri()
        raise BadInput(f"{archive} is a folder.", f"An adapter's folder is named by its URL: {uri}.") from None
    except tarfile.TarError as error:
        raise BadInput(
            f"{archive} is no exported adapter: {error}.", "Take one from `hone adapters export`."
        ) from error
    except OSError as error:
        raise StoreError(f"Can't unpack {archive} to {folder}: {error.strerror or error}.") from error


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    if member.name not in MEMBERS:
        raise BadInput(f"{archive}: {member.name!r} is no file of an adapter.", f"It may hold {', '.join(MEMBERS)}.")
    if not member.isreg():
        raise BadInput(f"{archive}: {member.name} is no plain file.", "Export the adapter again.")
    if member.size > MAX_BYTES[member.name]:
        raise BadInput(f"{archive}: {member.name} is too large: {member.size} bytes.")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
