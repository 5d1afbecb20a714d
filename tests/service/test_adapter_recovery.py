"""What a start finds of adapters that are half published, or of another store: it is cleared away, or kept."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from service.adapters.files import check_folder
from service.adapters.manifest import WEIGHTS
from service.adapters.place import Place
from service.adapters.registry import Registry
from service.errors import StoreError
from service.store.queries import adapters
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_source
from tests.service.registered import folders, states


def test_recovery_leaves_alone_what_is_published_and_what_is_not_ours(registry: Registry, source: Path) -> None:
    name = registry.publish(source, provenance(), {}, "")
    (registry.folder / "notes").mkdir()
    assert registry.recover() == []
    assert folders(registry) == {name, "notes"}


def test_recovery_waits_for_nobody_and_disturbs_nobody(registry: Registry) -> None:
    with registry.store.begin() as tx:
        adapters.reserve_adapter(tx, None, "run-1")
    registry.folder.mkdir()
    with (registry.folder / ".lock").open("ab") as somebody:
        fcntl.flock(somebody, fcntl.LOCK_EX)
        assert registry.recover() == []
        assert states(registry.store) == {"v1": "publishing"}
    assert registry.recover() == ["v1 was never completely published: rejected."]


def test_what_can_not_be_cleared_away_is_an_error_of_the_disk(
    registry: Registry, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.publish(source, provenance(), {}, "")
    with registry.store.begin() as tx:
        half_published = adapters.reserve_adapter(tx, None, None).name
    (registry.folder / half_published).mkdir()

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("service.adapters.leftovers.remove_folder", refused)
    with pytest.raises(StoreError, match="Permission denied"):
        registry.recover()


@pytest.mark.parametrize("first", ["recover", "publish"])
def test_the_adapters_of_another_store_make_room_and_can_be_had_again(
    registry: Registry, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    """A new database over an old home, or one from an old backup, whichever comes first: not an adapter is lost."""
    for _ in range(2):
        registry.publish(source, provenance(), {}, "Of the store before.")
    store = Store.open(f"sqlite:///{tmp_path / 'new.db'}")
    renewed = Registry(store, registry.folder)
    if first == "recover":
        assert renewed.recover() == []
        assert "v1" not in folders(renewed)
    assert renewed.publish(write_source(tmp_path / "other", seed=1), provenance(), {}, "Passed.") == "v1"
    aside = sorted(folders(renewed) - {"v1"})
    assert [name.split(".unregistered-")[0] for name in aside] == ["v1", "v2"]
    said = " ".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert all(f"hone adapters import file://{renewed.folder / name}`" in said for name in aside)
    renewed.check("v1")
    imported = renewed.import_adapter(Place(f"file://{renewed.folder / aside[1]}"), "Back again.")
    assert (renewed.folder / imported / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert renewed.recover() == []
    assert folders(renewed) == {"v1", imported, *aside}
    store.close()


def test_a_start_with_another_database_by_mistake_costs_nothing(
    registry: Registry, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [registry.publish(source, provenance(), {}, "Passed.") for _ in range(2)]
    store = Store.open(f"sqlite:///{tmp_path / 'wrong.db'}")
    Registry(store, registry.folder).recover()
    store.close()
    assert not folders(registry) & set(names)
    registry.recover()
    assert folders(registry) == set(names)
    assert all(registry.check(name)[1].name == name for name in names)
    assert f"{registry.folder / names[0]}.unregistered-" in caplog.text and f"is {names[0]} again" in caplog.text


def test_a_number_that_came_to_nothing_does_not_cost_another_store_its_adapter(
    registry: Registry, source: Path, tmp_path: Path
) -> None:
    name = registry.publish(source, provenance(), {}, "Of the store before.")
    store = Store.open(f"sqlite:///{tmp_path / 'new.db'}")
    with store.begin() as tx:
        assert adapters.reserve_adapter(tx, None, None).name == name
    assert Registry(store, registry.folder).recover() == [f"{name} was never completely published: rejected."]
    (aside,) = folders(registry)
    assert aside.startswith(f"{name}.unregistered-")
    check_folder(registry.folder / aside)
    store.close()


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_is_registered_stays_though_the_stores_answer_was_lost(
    registry: Registry, source: Path, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    whole, happened = registry.store.begin, list[str]()

    @contextmanager
    def begin() -> Iterator[Session]:
        if len(happened) == 2 and not comes_back:
            raise StoreError("The database can't be reached.")
        with whole() as tx:
            yield tx
        if len(happened) == 1:
            happened.append("committed, and the answer was lost")
            raise StoreError("The connection broke.")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="The connection broke"):
        patch.setattr(registry.store, "begin", begin)
        registry.publish(source, provenance(), {}, "Passed.", lambda tx, name: happened.append(name))
    assert registry.recover() == []
    assert (states(registry.store), folders(registry)) == ({"v1": "candidate"}, {"v1"})
    registry.check("v1")


def test_what_a_store_that_is_away_did_not_register_is_cleared_away_when_it_is_back(
    registry: Registry, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, begun = registry.store.begin, list[int]()

    @contextmanager
    def begin() -> Iterator[Session]:
        begun.append(1)
        if len(begun) > 1:  # only the number was reserved
            raise StoreError("The database can't be reached.")
        with whole() as tx:
            yield tx

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="can't be reached"):
        patch.setattr(registry.store, "begin", begin)
        registry.publish(source, provenance(), {}, "Passed.")
    assert (states(registry.store), folders(registry)) == ({"v1": "publishing"}, {"v1"})
    assert registry.recover() == [
        "v1 was never completely published: rejected.",
        f"Removed {registry.folder / 'v1'}, which was never registered.",
    ]
    assert folders(registry) == set()


def test_a_home_that_can_not_be_written_is_an_error_of_the_disk(sqlite_store: Store, tmp_path: Path) -> None:
    (tmp_path / "adapters").write_text("a file")
    with pytest.raises(StoreError, match="Can't write to"):
        Registry(sqlite_store, tmp_path / "adapters").recover()
