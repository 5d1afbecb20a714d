"""Adapters are carried in archives that can do no harm."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from service.adapters.archive import export_folder, unpack
from service.adapters.files import check_folder
from service.adapters.manifest import CONFIG, MANIFEST, REPORT, WEIGHTS
from service.errors import BadInput, Conflict


def test_an_exported_adapter_unpacks_to_the_same_files(published: Path, tmp_path: Path) -> None:
    archive, copy = tmp_path / "v1.tar", tmp_path / "copy"
    export_folder(published, archive)
    copy.mkdir()
    unpack(archive, copy)
    assert check_folder(copy) == check_folder(published)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in published.iterdir()
    }
    with pytest.raises(Conflict, match="exists already"):
        export_folder(published, archive)


def test_an_exported_adapter_is_on_the_disk_under_its_name(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, flushed = tmp_path / "carried" / "v1.tar", list[tuple[int, bool]]()
    archive.parent.mkdir()
    monkeypatch.setattr("os.fsync", lambda file: flushed.append((os.fstat(file).st_ino, archive.exists())))
    export_folder(published, archive)
    assert flushed[-1] == (archive.parent.stat().st_ino, True)


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 4) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return member


@pytest.mark.parametrize(
    "members",
    [
        [_member("../manifest.json")],
        [_member("/etc/cron.d/evil")],
        [_member("folder/manifest.json")],
        [_member(MANIFEST, tarfile.SYMTYPE, "/etc/passwd")],
        [_member(MANIFEST, tarfile.LNKTYPE, "../../secret")],
        [_member(WEIGHTS, tarfile.FIFOTYPE)],
        [_member(CONFIG, tarfile.DIRTYPE)],
        [_member("adapter_model.bin")],
        [_member(CONFIG), _member(CONFIG)],
        [_member(CONFIG, size=(1 << 20) + 1)],
    ],
)
def test_an_archive_with_anything_else_in_it_is_refused_as_a_whole(
    members: list[tarfile.TarInfo], tmp_path: Path
) -> None:
    archive, target = tmp_path / "evil.tar", tmp_path / "target"
    with tarfile.open(archive, "w") as tar:
        for member in [_member(REPORT), *members]:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    target.mkdir()
    with pytest.raises(BadInput, match=r"evil\.tar"):
        unpack(archive, target)
    assert list(target.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar", "target"]


@pytest.mark.parametrize("content", [b"", b"not a tar", os.urandom(2000)])
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInput):
        unpack(tmp_path / "x.tar", tmp_path / "target")
        check_folder(tmp_path / "target")
