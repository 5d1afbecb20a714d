"""What can't be read for now, of the adapter or of its base, says nothing about the adapter."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.adapters.files import check_folder, check_sizes, read_manifest
from service.adapters.manifest import CONFIG, MANIFEST, REPORT, WEIGHTS
from service.adapters.weights import read_header
from service.errors import AdapterUnreachable
from tests.fixtures.adapters import write_base


def _fail_to_open(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    whole = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", [MANIFEST, CONFIG, WEIGHTS, REPORT])
def test_a_file_that_can_not_be_read_now_says_nothing_about_the_adapter(
    published: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    _fail_to_open(monkeypatch, name, number)
    with pytest.raises(AdapterUnreachable, match=f"Adapter v1: {name} can't be read: {os.strerror(number)}"):
        check_folder(published)


def test_a_base_that_can_not_be_read_now_says_nothing_about_the_adapter(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_base(tmp_path / "base")
    check_folder(published, base_folder=base)
    for number in (errno.EIO, errno.ENOENT):  # it may just be replaced
        with monkeypatch.context() as patch:
            _fail_to_open(patch, "model.safetensors", number)
            with pytest.raises(AdapterUnreachable, match="The base model's weights can't be read"):
                check_folder(published, base_folder=base)


@pytest.mark.parametrize("left", [b"", b"junk" * 10, -1])
def test_a_base_that_is_damaged_or_still_being_copied_says_nothing_about_the_adapter(
    published: Path, tmp_path: Path, left: bytes | int
) -> None:
    weights = write_base(tmp_path / "base") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:left] if isinstance(left, int) else left)
    with pytest.raises(AdapterUnreachable, match="a file is damaged, or still being written"):
        check_folder(published, base_folder=weights.parent)
    weights.write_bytes(whole)
    check_folder(published, base_folder=weights.parent)


@contextmanager
def _no_more_files() -> Iterator[None]:
    """The kernel's limit on open files, reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as file:
        lowest_free = file.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("read", [check_folder, check_sizes, read_manifest, lambda path: read_header(path / WEIGHTS)])
def test_who_may_open_no_more_files_calls_no_adapter_broken(published: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(AdapterUnreachable, match="Too many open files"), _no_more_files():
        read(published)
