"""Adapters that several homes share by URL: put there whole, believed only as far as the store vouches for them."""

from __future__ import annotations

import errno
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.numpy import save_file
from sqlalchemy.orm import Session

from service.adapters import registry
from service.adapters.files import check_folder
from service.adapters.leftovers import LONGEST_PUBLISHING
from service.adapters.manifest import CONFIG, MANIFEST, REPORT, WEIGHTS, Manifest
from service.adapters.place import TRIES, Place
from service.adapters.registry import Registry
from service.errors import AdapterBroken, AdapterUnreachable, BadInput, Conflict, LeaseLost
from service.store.queries import adapters
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.object_store import ObjectStore
from tests.fixtures.schema import check_manifest
from tests.fixtures.waiting import PATIENCE
from tests.service.house import House

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


def states(store: Store) -> dict[str, str]:
    with store.read() as tx:
        return {adapter.name: adapter.state for adapter in adapters.list_adapters(tx)}


def test_what_one_home_publishes_the_other_fetches_when_it_is_asked_for(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    one, other = homes(sqlite_store, tmp_path, url)
    name = one.publish(source, provenance(), {"won": 0.7}, "Passed.")
    assert set(Place(f"{url}/{name}").names()) == FILES
    assert not other.folder.exists()
    path, manifest = other.check(name)
    assert (path, manifest.name) == (other.folder / name, name)
    for file in FILES:
        assert (path / file).read_bytes() == (one.folder / name / file).read_bytes()
        assert (path / file).stat().st_mode & 0o777 == 0o444
    assert {entry.name for entry in other.folder.iterdir()} == {name, ".lock"}
    check_manifest(path)
    assert other.recover() == []
    shutil.rmtree(other.folder / name)
    assert other.check(name)[1] == manifest


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


def test_what_was_published_before_the_place_was_named_can_be_put_there(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    name = Registry(sqlite_store, tmp_path / "one" / "adapters").publish(source, provenance(), {}, "Passed.")
    one, other = homes(sqlite_store, tmp_path, url)
    with pytest.raises(AdapterUnreachable, match=rf"no manifest\.json at {url}/{name}.*hone adapters export"):
        other.check(name)
    one.export(name, Place(f"{url}/{name}"))
    other.check(name)
    with pytest.raises(Conflict, match="already"):
        one.export(name, Place(f"{url}/{name}"))


def test_an_adapter_is_carried_to_another_store_by_url(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    here = Registry(sqlite_store, tmp_path / "here" / "adapters")
    name = here.publish(source, provenance(run_id="run-1"), {}, "Passed.")
    here.export(name, Place(f"{url}/gift"))
    store = Store.open(f"sqlite:///{tmp_path / 'elsewhere' / 'hone.db'}")
    elsewhere = Registry(store, tmp_path / "elsewhere" / "adapters")
    imported = elsewhere.import_adapter(Place(f"{url}/gift"), "A gift.")
    path, manifest = elsewhere.check(imported)
    assert (manifest.imported_from, manifest.run_id) == (name, None)
    check_manifest(path)
    change(f"{url}/gift", WEIGHTS, lambda content: content[:-1])
    with pytest.raises(AdapterUnreachable, match="is truncated"):
        elsewhere.import_adapter(Place(f"{url}/gift"), "A gift.")
    change(f"{url}/gift", MANIFEST, lambda content: b"{}")
    with pytest.raises(AdapterUnreachable, match="is no manifest"):
        elsewhere.import_adapter(Place(f"{url}/gift"), "A gift.")
    assert states(store) == {imported: "candidate"}
    store.close()


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "evil.bin"])
def test_a_manifest_that_names_other_files_is_refused(
    sqlite_store: Store, source: Path, tmp_path: Path, name: str
) -> None:
    registry = Registry(sqlite_store, tmp_path / "adapters")
    place = Place("memory://bucket/evil")
    registry.export(registry.publish(source, provenance(), {}, "Passed."), place)
    change(place.url, MANIFEST, lambda content: content.replace(REPORT.encode(), name.encode()))
    with pytest.raises(AdapterUnreachable, match="is no file of an adapter"):
        registry.import_adapter(place, "")
    assert not (tmp_path / "evil").exists()


def test_what_fails_to_be_registered_does_not_stay_at_the_place(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    one, _ = homes(sqlite_store, tmp_path, url)

    def lose(tx: Session, name: str) -> None:
        assert Place(url).names() == [name]
        raise LeaseLost("Another learner has it.")

    with pytest.raises(LeaseLost):
        one.publish(source, provenance(), {}, "Passed.", lose)
    assert Place(url).names() == [] and states(sqlite_store) == {"v1": "rejected"}
    assert one.publish(source, provenance(), {}, "Passed.") == "v2"


def test_a_place_that_can_not_be_written_publishes_nothing(sqlite_store: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a file")
    one, _ = homes(sqlite_store, tmp_path, f"file://{tmp_path}/shared")
    with pytest.raises(AdapterUnreachable, match=r"v1 can't be written to file://"):
        one.publish(source, provenance(), {}, "Passed.")
    assert states(sqlite_store) == {"v1": "rejected"}
    assert {entry.name for entry in one.folder.iterdir()} == {".lock"}


def test_what_a_killed_publisher_left_at_the_place_is_removed_by_the_next(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    one, _ = homes(sqlite_store, tmp_path, url)

    class Killed(BaseException):
        """A kill -9, after which nothing of the publisher runs any more."""

    def die(tx: Session, name: str) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(one, "_give_up", lambda name, reason: None)
        one.publish(source, provenance(run_id="run-1"), {}, "Passed.", die)
    assert states(sqlite_store) == {"v1": "publishing"} and Place(url).names() == ["v1"]
    assert any("Removed" in line and url in line for line in one.recover("run-1"))
    assert states(sqlite_store) == {"v1": "rejected"} and Place(url).names() == []


def test_another_home_s_publishing_is_given_up_only_when_it_is_very_old(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    one, _ = homes(sqlite_store, tmp_path, url)
    with sqlite_store.begin() as tx:
        fresh = adapters.reserve_adapter(tx, None, "run-elsewhere").name
        row = adapters.reserve_adapter(tx, None, None)
        row.created_at -= LONGEST_PUBLISHING + timedelta(minutes=1)
        old = row.name
    one.recover("run-here")
    assert states(sqlite_store) == {fresh: "publishing", old: "rejected"}
    one.recover("run-elsewhere")
    assert states(sqlite_store)[fresh] == "rejected"


def test_two_stores_that_were_given_one_place_leave_each_other_s_adapters_alone(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    one, _ = homes(sqlite_store, tmp_path, url)
    name = one.publish(source, provenance(), {}, "Passed.")
    store = Store.open(f"sqlite:///{tmp_path / 'elsewhere' / 'hone.db'}")
    stranger = Registry(store, tmp_path / "elsewhere" / "adapters", shared=Place(url))
    with pytest.raises(Conflict, match=f"There is an adapter at {url}/{name} already"):
        stranger.publish(write_source(tmp_path / "other", seed=1), provenance(), {}, "Passed.")
    stranger.recover()
    assert states(store) == {"v1": "rejected"}
    shutil.rmtree(one.folder / name)
    one.check(name)
    store.close()


def test_what_a_home_had_before_it_shared_a_store_makes_room_and_stays(
    sqlite_store: Store, source: Path, tmp_path: Path, url: str
) -> None:
    one, other = homes(sqlite_store, tmp_path, url)
    before = Store.open(f"sqlite:///{tmp_path / 'before.db'}")
    mine = write_source(tmp_path / "mine", seed=1)
    name = Registry(before, other.folder).publish(mine, provenance(), {}, "Mine.")
    before.close()
    assert one.publish(source, provenance(), {}, "Ours.") == name
    assert (other.check(name)[0] / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    (aside,) = {entry.name for entry in other.folder.iterdir()} - {name, ".lock"}
    assert aside.startswith(f"{name}.unregistered-")
    assert (other.folder / aside / WEIGHTS).read_bytes() == (mine / WEIGHTS).read_bytes()


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


def test_a_place_that_is_away_keeps_no_home_from_starting(sqlite_store: Store, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a file")
    one, _ = homes(sqlite_store, tmp_path, f"file://{tmp_path}/shared/below")
    with sqlite_store.begin() as tx:
        adapters.reserve_adapter(tx, None, "run-1")
    assert "could not be looked for" in one.recover("run-1")[-1]
    assert states(sqlite_store) == {"v1": "rejected"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://bucket/adapters", r"needs the package s3fs.*pip install s3fs"),
        ("gs://bucket/adapters", r"needs the package gcsfs.*pip install gcsfs"),
        ("carrier-pigeon://loft", "carrier-pigeon"),
        ("/srv/adapters", "is no URL"),
        ("sftp://ann:secret@host/adapters", "holds no password"),
    ],
)
def test_a_url_that_is_of_no_use_is_one_clear_error(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=words) as refused:
        Place(url)
    assert "secret" not in str(refused.value)


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
