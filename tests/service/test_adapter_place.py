"""Adapters that several homes share by URL: put there whole, by one publisher at a time, and left to whose they are."""

from __future__ import annotations

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from service.adapters.leftovers import LONGEST_PUBLISHING
from service.adapters.manifest import MANIFEST, REPORT, WEIGHTS
from service.adapters.place import Place
from service.adapters.registry import Registry
from service.errors import AdapterUnreachable, BadInput, Conflict, LeaseLost
from service.store.queries import adapters
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.schema import check_manifest
from tests.service.registered import states
from tests.service.shared_place import FILES, change, homes
from tests.service.shared_place import no_pauses as no_pauses
from tests.service.shared_place import url as url


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
