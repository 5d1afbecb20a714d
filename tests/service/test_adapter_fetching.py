"""Adapters that are fetched from where homes share them: believed only as far as the store vouches for them."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from service.adapters import registry
from service.adapters.files import check_folder
from service.adapters.manifest import MANIFEST, REPORT, WEIGHTS, Manifest
from service.adapters.place import TRIES, Place
from service.adapters.registry import Registry
from service.errors import AdapterBroken, AdapterUnreachable
from service.store.queries import adapters
from service.store.session import Store
from tests.fixtures.adapters import provenance
from tests.fixtures.waiting import PATIENCE
from tests.service.house import House
from tests.service.registered import states
from tests.service.shared_place import FILES, BadLine, change, homes
from tests.service.shared_place import no_pauses as no_pauses
from tests.service.shared_place import url as url


def test_what_was_damaged_here_is_fetched_again(sqlite_store: Store, source: Path, tmp_path: Path, url: str) -> None:
    one, _ = homes(sqlite_store, tmp_path, url)
    name = one.publish(source, provenance(), {}, "Passed.")
    weights = one.folder / name / WEIGHTS
    whole = weights.read_bytes()
    for left in (b"", whole[:-1], None):
        weights.unlink()
        if left is not None:
            weights.write_bytes(left)
        one.check(name)
        assert weights.read_bytes() == whole
    assert {entry.name for entry in one.folder.iterdir()} == {name, ".lock"}
    unshared = Registry(sqlite_store, one.folder)
    weights.unlink()
    with pytest.raises(AdapterBroken, match="is missing"):
        unshared.check(name)


def fail_to_read(patch: pytest.MonkeyPatch, path: Path) -> None:
    """From now on the disk fails where this file is, whatever it is called."""
    whole, bad = Path.open, path.stat().st_ino

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.exists() and path.stat().st_ino == bad:
            raise OSError(errno.EIO, "Input/output error")
        return whole(path, *arguments, **options)

    patch.setattr(Path, "open", fail)


def test_what_can_not_be_read_here_is_fetched_and_set_aside(
    sqlite_store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = homes(sqlite_store, tmp_path, "memory://bucket/shared")
    name = one.publish(source, provenance(), {}, "Passed.")
    unshared = Registry(sqlite_store, one.folder)
    with monkeypatch.context() as patch:
        fail_to_read(patch, one.folder / name / WEIGHTS)
        with pytest.raises(AdapterUnreachable, match="can't be read: Input/output error"):
            unshared.check(name)
        path, _ = one.check(name)
        assert (path / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    (aside,) = {entry.name for entry in one.folder.iterdir()} - {name, ".lock"}
    assert aside.startswith(f"{name}.unregistered-")
    assert check_folder(one.folder / aside).name == name  # nothing is lost, should the disk be well again
    assert f"{one.folder / name} can't be read: it is called {aside} now" in caplog.text


def test_what_can_not_be_fetched_either_stays_where_it_is(
    sqlite_store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = homes(sqlite_store, tmp_path, "badline://bucket/shared")
    name = one.publish(source, provenance(), {}, "Passed.")
    with monkeypatch.context() as patch:
        fail_to_read(patch, one.folder / name / WEIGHTS)
        patch.setattr(BadLine, "breaks", 1000)
        with pytest.raises(AdapterUnreachable, match="the line broke off"):
            one.check(name)
    assert {entry.name for entry in one.folder.iterdir()} == {name, ".lock"}
    BadLine.opened.clear()
    one.check(name)
    assert BadLine.opened == []


def test_what_does_not_fit_this_home_s_base_is_not_fetched_again(
    sqlite_store: Store, source: Path, tmp_path: Path
) -> None:
    one, _ = homes(sqlite_store, tmp_path, "badline://bucket/shared")
    name = one.publish(source, provenance(), {}, "Passed.")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    wide = np.zeros((1, 2), np.float32)
    save_file({"model.layers.0.self_attn.q_proj.weight": wide}, base / "model.safetensors")
    elsewhere = Registry(sqlite_store, one.folder, base, Place("badline://bucket/shared"))
    BadLine.opened.clear()
    with pytest.raises(AdapterBroken, match="but the base has"):
        elsewhere.check(name)
    assert BadLine.opened == []


def test_what_is_here_is_not_fetched_again(sqlite_store: Store, source: Path, tmp_path: Path) -> None:
    one, other = homes(sqlite_store, tmp_path, "badline://bucket/shared")
    name = one.publish(source, provenance(), {}, "Passed.")
    other.check(name)
    BadLine.opened.clear()
    other.check(name)
    one.check(name)
    assert BadLine.opened == []


def test_many_who_need_it_at_once_fetch_it_once(sqlite_store: Store, source: Path, tmp_path: Path) -> None:
    one, other = homes(sqlite_store, tmp_path, "badline://bucket/shared")
    name = one.publish(source, provenance(), {}, "Passed.")
    found = []
    threads = [threading.Thread(target=lambda: found.append(other.check(name)[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [other.folder / name] * 6
    assert sorted(BadLine.opened) == sorted(FILES)


def test_what_another_has_fetched_since_it_was_missed_is_there(
    sqlite_store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = homes(sqlite_store, tmp_path, "badline://bucket/shared")
    name = one.publish(source, provenance(), {}, "Passed.")

    def missed(*about: object) -> object:
        monkeypatch.setattr(registry, "check_folder", check_folder)
        try:
            return check_folder(*about)  # type: ignore[arg-type]  # as it was called
        finally:
            other.check(name)

    monkeypatch.setattr(registry, "check_folder", missed)
    assert other.check(name)[0] == other.folder / name
    assert sorted(BadLine.opened) == sorted(FILES)


@pytest.mark.parametrize(
    ("file", "edit", "words"),
    [
        (WEIGHTS, lambda content: content[:-100], "is truncated: "),
        (WEIGHTS, lambda content: content[:100] + b"\x00\x01" + content[102:], "its SHA-256 is another"),
        (WEIGHTS, lambda content: content + b"more", "is longer than the "),
        (REPORT, lambda content: b"", "is truncated: 0 of "),
        (MANIFEST, lambda content: content + b" ", "isn't the one that was published"),
        (MANIFEST, lambda content: content[:100], "isn't the one that was published"),
    ],
)
def test_what_arrives_otherwise_than_it_was_published_is_refused_and_can_be_mended(
    sqlite_store: Store, source: Path, tmp_path: Path, file: str, edit: Callable[[bytes], bytes], words: str
) -> None:
    url = "badline://bucket/shared"
    one, other = homes(sqlite_store, tmp_path, url)
    name = one.publish(source, provenance(), {"won": 0.7}, "Passed.")
    change(f"{url}/{name}", file, edit)
    with pytest.raises(AdapterUnreachable) as refused:
        other.check(name)
    assert words in str(refused.value) and f"{url}/{name}/{file}" in str(refused.value)
    assert BadLine.opened.count(file) == TRIES
    assert {entry.name for entry in other.folder.iterdir()} == {".lock"}  # nothing of it stays
    assert states(sqlite_store) == {name: "candidate"}
    Place(f"{url}/{name}").remove()
    one.export(name, Place(f"{url}/{name}"))
    other.check(name)


@pytest.mark.parametrize("trouble", ["breaks", "garbles"])
def test_a_line_that_fails_for_a_moment_is_no_failure(
    sqlite_store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    one, other = homes(sqlite_store, tmp_path, "badline://bucket/shared")
    name = one.publish(source, provenance(), {}, "Passed.")
    monkeypatch.setattr(BadLine, trouble, TRIES - 1)
    other.check(name)
    shutil.rmtree(other.folder / name)
    monkeypatch.setattr(BadLine, trouble, 1000)
    with pytest.raises(AdapterUnreachable):
        other.check(name)


def test_what_can_not_be_written_here_may_pass_and_says_nothing_of_the_adapter(
    sqlite_store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    one, other = homes(sqlite_store, tmp_path, url)
    name = one.publish(source, provenance(), {}, "Passed.")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("service.adapters.files.os.fsync", full)
        with pytest.raises(AdapterUnreachable, match="No space left on device"):
            other.check(name)
    assert check_folder(other.check(name)[0]).name == name


def test_a_copy_that_can_be_read_again_by_the_time_it_is_fetched_is_nobody_elses(
    sqlite_store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    one, _ = homes(sqlite_store, tmp_path, url)
    name = one.publish(source, provenance(), {}, "Passed.")
    looked: list[int] = []

    def unreadable_three_times(path: Path, *arguments: Any) -> Manifest:
        looked.append(1)
        if len(looked) <= 3:
            raise AdapterUnreachable("Too many open files")
        return check_folder(path, *arguments)

    for module in ("registry", "files"):
        monkeypatch.setattr(f"service.adapters.{module}.check_folder", unreadable_three_times)
    assert one.check(name)[1].name == name and len(looked) > 4
    assert {entry.name for entry in one.folder.iterdir()} == {name, ".lock"}


def test_an_adapter_that_can_not_be_fetched_yet_waits_and_then_goes_live(
    sqlite_store: Store, source: Path, tmp_path: Path
) -> None:
    url = "badline://bucket/shared"
    one, other = homes(sqlite_store, tmp_path, url)
    with House(other, source) as house:
        name = one.publish(source, provenance(), {}, "Passed.")
        house.promote(name)
        whole = fsspec.core.url_to_fs(url)[0].cat_file(f"/bucket/shared/{name}/{WEIGHTS}")
        change(f"{url}/{name}", WEIGHTS, lambda content: content[:-8])
        with pytest.raises(AdapterUnreachable, match="is truncated"):
            house.reconcile()
        assert (house.serving().live, house.serving().requested) == ("base", name)
        assert house.row(name).state == "candidate"
        with sqlite_store.read() as tx:
            assert any("is truncated" in event.reason for event in adapters.events(tx, name))
        change(f"{url}/{name}", WEIGHTS, lambda content: whole)
        house.reconcile()
        assert house.serving().live == name
        assert check_folder(other.folder / name).name == name
