"""A place for adapters that several homes share: a folder, S3, GCS, or whatever else fsspec reaches by URL.

An adapter is there what it is on disk, one object a file, with the manifest written last: where there is a manifest,
all of it is there, and an object store needs no renaming for that. Nothing that comes from there is believed: each file
is held against the manifest while it arrives, and the manifest against what the store knows of it. Keys and regions are
what fsspec's packages (s3fs, gcsfs, …) find in the environment.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from service.adapters.archive import MAX_BYTES, MEMBERS
from service.adapters.files import flush, read_manifest, write_file, writing
from service.adapters.manifest import MANIFEST, FileEntry, Manifest
from service.adapters.place_errors import AGAIN, no_bucket, unreachable
from service.errors import AdapterUnreachable, BadInput, Conflict, HoneError

TRIES = 3
PAUSE_SECONDS = 0.5
"""Before the second try of a file; before the third it is twice as long."""

_BLOCK = 1 << 20
_WITH_FOLDERS = ("file", "local", "memory", "sftp", "ssh", "smb", "hdfs")
"""Where a folder has to be made before a file can be written; an object store would make a bucket."""
_EXCLUSIVE = ("s3", "s3a", "gs", "gcs")
"""Where a file can be written on condition that there is none (S3's `If-None-Match: *`)."""


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
            raise unreachable(f"{url} can't be reached", error) from error
        self._has_folders = protocol in _WITH_FOLDERS
        self._is_exclusive = protocol in _EXCLUSIVE
        self._is_on_disk = protocol in ("file", "local")

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.url}/{name}")

    def names(self) -> list[str]:
        """What lies here; nothing, where there is no such folder yet."""
        try:
            self._files.invalidate_cache()
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in self._files.ls(self._path, detail=False))
        except FileNotFoundError as error:
            self._need_bucket(error)
            return []
        except Exception as error:  # each protocol has errors of its own, here and below
            raise self._unreachable(f"{self.url} can't be read", error) from error

    def put(self, folder: Path) -> None:
        """Copy a checked adapter's folder here; what an interrupted copying of it left is completed.

        Raises Conflict when another adapter is here already, or is just being put here.
        """
        manifest = read_manifest(folder)
        try:
            self._files.invalidate_cache()
            if self._files.exists(self._at(MANIFEST)):
                raise self._taken(MANIFEST)
            if self._has_folders:
                self._files.makedirs(self._path, exist_ok=True)
            for name in (*manifest.files, MANIFEST):
                self._put_file(folder / name)
            if self._is_on_disk:
                flush(Path(self._path))
        except HoneError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError):
                self._need_bucket(error)
            raise self._unreachable(f"{folder.name} can't be written to {self.url}", error) from error

    def _put_file(self, path: Path) -> None:
        """Where the store knows how, only if nobody was quicker: of two who write here one goes on, and no file is from
        the one and another from the other."""
        at = self._at(path.name)
        try:
            self._files.put_file(str(path), at, **({"mode": "create"} if self._is_exclusive else {}))
        except FileExistsError:  # perhaps our own, of a try whose answer was lost
            if not self._holds(path):
                raise self._taken(path.name) from None
        except OSError as error:
            if not self._is_exclusive or error.errno != errno.ENOSYS:  # an S3 that knows no conditions
                raise
            self._files.put_file(str(path), at)
        if (size := self._files.info(at)["size"]) != path.stat().st_size:
            raise OSError(f"{path.name} has only {size} bytes there")
        if self._is_on_disk:
            flush(Path(at))

    def _holds(self, path: Path) -> bool:
        """Whether the file of that name here has the same bytes."""
        here = hashlib.sha256()
        for block in self._blocks(path.name, path.stat().st_size + 1):
            here.update(block)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == here.digest()

    def _taken(self, name: str) -> Conflict:
        what = "an adapter" if name == MANIFEST else f"{name} of another adapter, or of one that was never completed,"
        return Conflict(f"There is {what} at {self.url} already.", "Each home has a place of its own.")

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
        names = self.names()
        try:
            with suppress(FileNotFoundError):  # what another home removes at the same time
                if MANIFEST in names:
                    self._files.rm_file(self._at(MANIFEST))
                if names:
                    self._files.rm(self._path, recursive=True)
        except Exception as error:
            raise self._unreachable(f"{self.url} can't be removed", error) from error

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
            raise AdapterUnreachable(f"{self.url}/{MANIFEST} is no manifest of an adapter.", AGAIN) from error

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
            self._need_bucket(error)
            raise AdapterUnreachable(f"There is no {name} at {self.url}.", AGAIN) from error
        except Exception as error:
            raise self._unreachable(f"{self.url}/{name} can't be read", error) from error

    def _need_bucket(self, error: FileNotFoundError) -> None:
        """Raises AdapterUnreachable where it isn't a file or a folder that is missing, but all of an object store."""
        bucket = self._path.split("/", 1)[0]
        if self._has_folders or not bucket:
            return
        try:
            self._files.ls(bucket, detail=False)
        except FileNotFoundError:
            raise no_bucket(bucket, self.url) from error
        except Exception:  # who may see only what is below the place: then there is one
            return

    def _unreachable(self, what: str, error: Exception) -> AdapterUnreachable:
        return unreachable(what, error, self._is_on_disk)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


def is_url(place: str) -> bool:
    return "://" in place


def _until_sound(read: Callable[[], str | None]) -> None:
    """Read again while `read` fails or says what is wrong with what arrived; raises AdapterUnreachable in the end."""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_SECONDS * 2 ** (number - 1))
        try:
            problem, hint = read(), AGAIN
        except AdapterUnreachable as error:
            problem, hint = error.message, error.hint
        if problem is None:
            return
    raise AdapterUnreachable(f"{problem} Tried {TRIES} times.", hint)


def _damage(arrived: FileEntry, entry: FileEntry) -> str:
    if arrived.bytes < entry.bytes:
        return f"is truncated: {arrived.bytes} of {entry.bytes} bytes"
    if arrived.bytes > entry.bytes:
        return f"is longer than the {entry.bytes} bytes that were published"
    return "isn't what was published: its SHA-256 is another"
