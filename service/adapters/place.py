"""A place for adapters that several homes share: a folder, S3, GCS, or whatever else fsspec reaches by URL.

An adapter is there what it is on disk, one object a file, with the manifest written last: where there is a manifest,
all of it is there. Nothing that comes from there is believed: each file is held against the manifest while it arrives,
and the manifest against what the store knows of it. Keys and regions are what fsspec's packages (s3fs, gcsfs, …) find
in the environment.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from service.adapters.archive import MAX_BYTES, MEMBERS
from service.adapters.files import flush, read_manifest, write_file, writing
from service.adapters.manifest import MANIFEST, FileEntry, Manifest
from service.errors import AdapterUnreachable, BadInput, Conflict

TRIES = 3
PAUSE_SECONDS = 0.5
"""Before the second try of a file; before the third it is twice as long."""

_BLOCK = 1 << 20
_WITH_FOLDERS = ("file", "local", "memory", "sftp", "ssh", "smb", "hdfs")
"""Where a folder has to be made before a file can be written; an object store would make a bucket."""


class Place:
    """A folder at a URL. All that reach it raise AdapterUnreachable."""

    def __init__(self, url: str) -> None:
        """Raises BadInput for what is no URL, or needs a package that isn't installed."""
        import fsspec  # only for who has such a place: it takes its time to import
        from fsspec.registry import known_implementations

        protocol = urlsplit(url).scheme
        if not is_url(url):
            raise BadInput(f"{url!r} is no URL.", "Name a place such as s3://bucket/adapters or file:///srv/adapters.")
        if urlsplit(url).password:
            raise BadInput("A URL of adapters holds no password.", "Put it where the protocol's package looks for it.")
        self.url = url.rstrip("/")
        try:
            self._files, self._path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            package = known_implementations.get(protocol, {"class": protocol})["class"].split(".")[0]
            raise BadInput(f"{protocol}:// needs the package {package}: {error}.", f"pip install {package}") from error
        except ValueError as error:
            raise BadInput(f"{url}: {error}.", "fsspec's protocols are file, s3, gs and some more.") from error
        except Exception as error:  # some connect at once, each with errors of its own
            raise AdapterUnreachable(f"{url} can't be reached: {_said(error)}.") from error
        self._has_folders = protocol in _WITH_FOLDERS
        self._is_on_disk = protocol in ("file", "local")

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.url}/{name}")

    def names(self) -> list[str]:
        """What lies here; nothing, where there is no such folder yet."""
        try:
            self._files.invalidate_cache()
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in self._files.ls(self._path, detail=False))
        except FileNotFoundError:
            return []
        except Exception as error:  # each protocol has errors of its own, here and below
            raise AdapterUnreachable(f"{self.url} can't be read: {_said(error)}.", _ADVICE) from error

    def put(self, folder: Path) -> None:
        """Copy a checked adapter's folder here. Raises Conflict when an adapter is here already."""
        files = [*read_manifest(folder).files, MANIFEST]
        try:
            self._files.invalidate_cache()
            if self._files.exists(self._at(MANIFEST)):
                raise Conflict(f"There is an adapter at {self.url} already.", "Each home has a place of its own.")
            if self._has_folders:
                self._files.makedirs(self._path, exist_ok=True)
            for name in files:
                self._files.put_file(str(folder / name), self._at(name))
                if (size := self._files.info(self._at(name))["size"]) != (folder / name).stat().st_size:
                    raise OSError(f"{name} has only {size} bytes there")
                if self._is_on_disk:
                    flush(Path(self._at(name)))
            if self._is_on_disk:
                flush(Path(self._path))
        except Conflict:
            raise
        except Exception as error:
            raise AdapterUnreachable(
                f"{folder.name} can't be written to {self.url}: {_said(error)}.", _ADVICE
            ) from error

    def fetch(
        self, target: Path, manifest_hash: str | None = None, make_way: Callable[[], None] = lambda: None
    ) -> None:
        """Copy the adapter here to the folder `target`, which appears complete or not at all.

        `manifest_hash`: what the store knows of its manifest; `make_way`: called once all has arrived, when `target`
        has to be free. What arrives damaged is asked for again. Raises AdapterUnreachable, also when it stays damaged,
        and StoreError when the disk is full.
        """
        content = self._manifest(manifest_hash)
        manifest = self._parsed(content)
        for name, entry in manifest.files.items():
            if name not in MEMBERS or entry.bytes > MAX_BYTES[name]:
                raise AdapterUnreachable(f"{self.url}: {name!r} of {entry.bytes} bytes is no file of an adapter.")
        with writing(target) as unfinished:
            for name, entry in manifest.files.items():
                self._fetch_file(name, entry, unfinished / name)
            write_file(unfinished / MANIFEST, (content,))
            make_way()

    def created_at(self) -> datetime | None:
        """When the adapter here was made; None where there is no manifest."""
        return self._parsed(self._manifest(None)).created_at if MANIFEST in self.names() else None

    def remove(self) -> None:
        """Remove what is here, the manifest first, if anything is."""
        try:
            names = self.names()
            if MANIFEST in names:
                self._files.rm_file(self._at(MANIFEST))
            if names:
                self._files.rm(self._path, recursive=True)
        except Exception as error:
            raise AdapterUnreachable(f"{self.url} can't be removed: {_said(error)}.", _ADVICE) from error

    def _manifest(self, manifest_hash: str | None) -> bytes:
        content = b""

        def read() -> str | None:
            nonlocal content
            content = b"".join(self._blocks(MANIFEST, MAX_BYTES[MANIFEST]))
            if manifest_hash in (None, hashlib.sha256(content).hexdigest()):
                return None
            return f"{self.url}/{MANIFEST} isn't the one that was published: its SHA-256 is another."

        _until_sound(read)
        return content

    def _parsed(self, content: bytes) -> Manifest:
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            raise AdapterUnreachable(f"{self.url}/{MANIFEST} is no manifest of an adapter.", _ADVICE) from error

    def _fetch_file(self, name: str, entry: FileEntry, target: Path) -> None:
        def read() -> str | None:
            target.unlink(missing_ok=True)
            arrived = write_file(target, self._blocks(name, entry.bytes + 1))
            return None if arrived == entry else f"{self.url}/{name} {_damage(arrived, entry)}."

        _until_sound(read)

    def _blocks(self, name: str, most: int) -> Iterator[bytes]:
        """A file's bytes, and no more than so many."""
        try:
            with self._files.open(self._at(name), "rb") as file:
                while most > 0 and (block := file.read(min(_BLOCK, most))):
                    most -= len(block)
                    yield block
        except FileNotFoundError as error:
            raise AdapterUnreachable(f"There is no {name} at {self.url}.", _ADVICE) from error
        except Exception as error:
            raise AdapterUnreachable(f"{self.url}/{name} can't be read: {_said(error)}.", _ADVICE) from error

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


def is_url(place: str) -> bool:
    return "://" in place


_ADVICE = "See that the place can be reached, or put the adapter there again with `hone adapters export`."


def _until_sound(read: Callable[[], str | None]) -> None:
    """Read again while `read` fails or says what is wrong with what arrived; raises AdapterUnreachable in the end."""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_SECONDS * 2 ** (number - 1))
        try:
            problem = read()
        except AdapterUnreachable as error:
            problem = error.message
        if problem is None:
            return
    raise AdapterUnreachable(f"{problem} Tried {TRIES} times.", _ADVICE)


def _damage(arrived: FileEntry, entry: FileEntry) -> str:
    if arrived.bytes < entry.bytes:
        return f"is truncated: {arrived.bytes} of {entry.bytes} bytes"
    if arrived.bytes > entry.bytes:
        return f"is longer than the {entry.bytes} bytes that were published"
    return "isn't what was published: its SHA-256 is another"


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip().rstrip(".")
