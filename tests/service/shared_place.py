"""Places that several homes share by URL, one of them at the end of a bad line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from service.adapters.manifest import CONFIG, MANIFEST, REPORT, WEIGHTS
from service.adapters.place import Place
from service.adapters.registry import Registry
from service.store.session import Store
from tests.fixtures.object_store import ObjectStore

FILES = {MANIFEST, CONFIG, WEIGHTS, REPORT}


class BadLine(MemoryFileSystem):  # type: ignore[misc]  # fsspec comes untyped
    """Storage in memory at the end of a line that breaks off, or garbles, the first so many readings of a file."""

    protocol = "badline"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    breaks = 0
    garbles = 0
    opened: list[str] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("badline://", "memory://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if mode == "rb":
            cls = type(self)
            cls.opened.append(path.rsplit("/", 1)[-1])
            if cls.breaks:
                cls.breaks -= 1
                raise ConnectionResetError("the line broke off")
            if cls.garbles and not path.endswith(MANIFEST):
                cls.garbles -= 1
                file.seek(1)
        return file


fsspec.register_implementation("badline", BadLine, clobber=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("service.adapters.place.PAUSE_SECONDS", 0.0)
    for files in (MemoryFileSystem, BadLine):
        files.store.clear()
        files.pseudo_dirs[:] = [""]
    BadLine.breaks = BadLine.garbles = 0
    BadLine.opened.clear()
    yield


@pytest.fixture(params=["memory", "file", "badline", "s3", "gcs"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each kind of place; the bad line is a good one unless a test says otherwise."""
    if request.param in ("s3", "gcs"):
        store: ObjectStore = request.getfixturevalue(request.param)
        return store.url
    return f"file://{tmp_path}/shared" if request.param == "file" else f"{request.param}://bucket/shared"


def homes(store: Store, tmp_path: Path, url: str) -> tuple[Registry, Registry]:
    """Two homes over one store."""
    one, other = (Registry(store, tmp_path / name / "adapters", shared=Place(url)) for name in ("one", "other"))
    return one, other


def change(url: str, name: str, edit: Callable[[bytes], bytes]) -> None:
    files, path = fsspec.core.url_to_fs(f"{url}/{name}")
    files.pipe_file(path, edit(files.cat_file(path)))
