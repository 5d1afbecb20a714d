"""Publishing: one step after another, and nothing half done whenever the publisher is killed."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy.orm import Session

from service.adapters.files import check_folder
from service.adapters.fingerprint import base_fingerprint
from service.adapters.manifest import CONFIG, MANIFEST, WEIGHTS, BaseModelIdentity, Manifest
from service.adapters.place import Place
from service.adapters.registry import Registry
from service.errors import AdapterBroken, BadInput, LeaseLost, NotFound, StoreError
from service.store.clock import now
from service.store.queries import adapters, runs, serving
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_base, write_source
from tests.fixtures.schema import check_manifest


def _states(store: Store) -> dict[str, str]:
    with store.read() as tx:
        return {adapter.name: adapter.state for adapter in adapters.list_adapters(tx)}


def _folders(registry: Registry) -> set[str]:
    return {path.name for path in registry.folder.iterdir()} - {".lock"}


def test_a_published_adapter_is_a_candidate_that_the_store_vouches_for(registry: Registry, source: Path) -> None:
    name = registry.publish(source, provenance(run_id="run-1"), {"won": 0.7}, "Passed every gate.")
    path, manifest = registry.check(name)
    assert (name, path, manifest.name, manifest.run_id) == ("v1", registry.folder / "v1", "v1", "run-1")
    with registry.store.read() as tx:
        row = adapters.get_adapter(tx, name)
    assert row is not None
    assert (row.state, row.report, row.reason) == ("candidate", {"won": 0.7}, "Passed every gate.")


def test_registering_and_ending_the_run_are_one_step(registry: Registry, source: Path) -> None:
    with registry.store.begin() as tx:
        runs.queue_run(tx, "tick", "command", "auto", {})
        lease = runs.lease_run(tx, "learner", 60, 3)
    assert lease is not None

    def end(tx: Session, name: str) -> None:
        runs.finish_run(tx, lease.run_id, lease.fence, "succeeded", "All gates passed.", name)
        serving.request_live(tx, name, "learner", "Every gate passed.")

    name = registry.publish(source, provenance(run_id=lease.run_id), {}, "Passed.", end)
    with registry.store.read() as tx:
        run = runs.get_run(tx, lease.run_id)
        assert run is not None and (run.state, run.adapter) == ("succeeded", name)
        assert serving.desired_state(tx).requested == name


def test_a_learner_that_lost_its_lease_publishes_nothing(registry: Registry, source: Path) -> None:
    with registry.store.begin() as tx:
        runs.queue_run(tx, "tick", "command", "auto", {})
        lease = runs.lease_run(tx, "learner", 60, 3)
        assert lease is not None
        runs.cancel_run(tx, lease.run_id)

    def end(tx: Session, name: str) -> None:
        runs.finish_run(tx, lease.run_id, lease.fence, "succeeded", "All gates passed.", name)

    with pytest.raises(LeaseLost):
        registry.publish(source, provenance(), {}, "Passed.", end)
    assert _folders(registry) == set()
    assert _states(registry.store) == {"v1": "rejected"}
    assert registry.publish(source, provenance(), {}, "Passed.") == "v2"


def test_a_broken_source_becomes_no_adapter(registry: Registry, source: Path) -> None:
    (source / WEIGHTS).unlink()
    with pytest.raises(AdapterBroken, match="is missing"):
        registry.publish(source, provenance(), {}, "Passed.")
    assert _folders(registry) == set()
    with registry.store.read() as tx:
        row = adapters.get_adapter(tx, "v1")
    assert row is not None and row.state == "rejected" and "is missing" in row.reason


def test_weights_that_do_not_fit_the_base_become_no_adapter(registry: Registry, source: Path, tmp_path: Path) -> None:
    base = write_source(tmp_path / "base")
    (base / "config.json").write_text("{}")
    (base / WEIGHTS).write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    fitting = Registry(registry.store, registry.folder, base)
    assert fitting.publish(source, provenance(), {}, "The base names none of these modules.") == "v1"
    name = "model.layers.0.self_attn.q_proj.weight"
    header = f'{{"{name}":{{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}}}'.encode()
    (base / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(AdapterBroken, match=r"but the base has \(1, 2\) there"):
        fitting.publish(source, provenance(), {}, "Wrong.")
    assert _folders(registry) == {"v1"}
    with pytest.raises(AdapterBroken, match=r"but the base has \(1, 2\) there"):
        fitting.check("v1")


def test_a_base_that_was_still_growing_is_hashed_again_before_an_adapter_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    weights = write_base(tmp_path / "base") / "model.safetensors"
    whole, of_base = weights.read_bytes(), base_fingerprint(weights.parent)
    here = Registry(registry.store, registry.folder, weights.parent)

    def trained_on(sha256: str) -> Manifest:
        return Manifest.of(provenance(base=BaseModelIdentity(name="base", sha256=sha256)), "v1", now())

    weights.write_bytes(whole[:-1])
    assert not here.is_of_this_base(trained_on(of_base))
    weights.write_bytes(whole)
    assert here.is_of_this_base(trained_on(of_base))
    weights.with_name("more.safetensors").write_bytes(whole)
    assert here.is_of_this_base(trained_on(base_fingerprint(weights.parent)))
    assert not here.is_of_this_base(trained_on("0" * 64))


def test_what_is_not_published_is_not_found(registry: Registry) -> None:
    with registry.store.begin() as tx:
        adapters.reserve_adapter(tx, None, None)
    for name in ("v1", "v2", "base", "../v1"):
        with pytest.raises(NotFound):
            registry.check(name)


def test_a_folder_in_anothers_place_is_noticed(registry: Registry, source: Path) -> None:
    first = registry.publish(source, provenance(), {}, "")
    second = registry.publish(source, provenance(method="sft"), {}, "")
    (registry.folder / first).rename(registry.folder / "aside")
    (registry.folder / second).rename(registry.folder / first)
    with pytest.raises(AdapterBroken, match="was changed after it was published"):
        registry.check(first)


def test_an_exported_adapter_is_imported_elsewhere_under_a_new_name(
    registry: Registry, source: Path, sqlite_store: Store, tmp_path: Path
) -> None:
    for _ in range(2):
        name = registry.publish(source, provenance(run_id="run-1"), {"won": 0.7}, "Passed.")
    archive = tmp_path / "mine.tar"
    registry.export(name, archive)
    store = Store.open(f"sqlite:///{tmp_path / 'elsewhere' / 'hone.db'}")
    elsewhere = Registry(store, tmp_path / "elsewhere" / "adapters")
    imported = elsewhere.import_adapter(archive, "From the other house.")
    _, manifest = elsewhere.check(imported)
    assert (imported, manifest.imported_from, manifest.run_id, manifest.parent) == ("v1", "v2", None, None)
    assert (elsewhere.folder / "v1" / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert check_manifest(elsewhere.folder / "v1")["imported_from"] == "v2"
    with store.read() as tx:
        assert [event.actor for event in adapters.events(tx)] == ["import"]
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    with pytest.raises(BadInput):
        elsewhere.import_adapter(tmp_path / "junk.tar", "")
    assert _states(store) == {"v1": "candidate"}
    store.close()


def test_recovery_leaves_alone_what_is_published_and_what_is_not_ours(registry: Registry, source: Path) -> None:
    name = registry.publish(source, provenance(), {}, "")
    (registry.folder / "notes").mkdir()
    assert registry.recover() == []
    assert _folders(registry) == {name, "notes"}


def test_recovery_waits_for_nobody_and_disturbs_nobody(registry: Registry) -> None:
    with registry.store.begin() as tx:
        adapters.reserve_adapter(tx, None, "run-1")
    registry.folder.mkdir()
    with (registry.folder / ".lock").open("ab") as somebody:
        fcntl.flock(somebody, fcntl.LOCK_EX)
        assert registry.recover() == []
        assert _states(registry.store) == {"v1": "publishing"}
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
        assert "v1" not in _folders(renewed)
    assert renewed.publish(write_source(tmp_path / "other", seed=1), provenance(), {}, "Passed.") == "v1"
    aside = sorted(_folders(renewed) - {"v1"})
    assert [name.split(".unregistered-")[0] for name in aside] == ["v1", "v2"]
    said = " ".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert all(f"hone adapters import file://{renewed.folder / name}`" in said for name in aside)
    renewed.check("v1")
    imported = renewed.import_adapter(Place(f"file://{renewed.folder / aside[1]}"), "Back again.")
    assert (renewed.folder / imported / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert renewed.recover() == []
    assert _folders(renewed) == {"v1", imported, *aside}
    store.close()


def test_a_start_with_another_database_by_mistake_costs_nothing(
    registry: Registry, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [registry.publish(source, provenance(), {}, "Passed.") for _ in range(2)]
    store = Store.open(f"sqlite:///{tmp_path / 'wrong.db'}")
    Registry(store, registry.folder).recover()
    store.close()
    assert not _folders(registry) & set(names)
    registry.recover()
    assert _folders(registry) == set(names)
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
    (aside,) = _folders(registry)
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
    assert (_states(registry.store), _folders(registry)) == ({"v1": "candidate"}, {"v1"})
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
    assert (_states(registry.store), _folders(registry)) == ({"v1": "publishing"}, {"v1"})
    assert registry.recover() == [
        "v1 was never completely published: rejected.",
        f"Removed {registry.folder / 'v1'}, which was never registered.",
    ]
    assert _folders(registry) == set()


def test_a_home_that_can_not_be_written_is_an_error_of_the_disk(sqlite_store: Store, tmp_path: Path) -> None:
    (tmp_path / "adapters").write_text("a file")
    with pytest.raises(StoreError, match="Can't write to"):
        Registry(sqlite_store, tmp_path / "adapters").recover()


_STEPS = ("adapters/registry.py", "adapters/files.py", "queries/adapters.py", "store/session.py", "/shutil.py")


class _Steps:
    """Counts the first time that each line of the publishing code runs; dies there when it is the `fatal`-th."""

    def __init__(self, fatal: int | None) -> None:
        self.fatal = fatal
        self.seen: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(_STEPS):
            return None
        step = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and step not in self.seen:
            self.seen.add(step)
            if len(self.seen) == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def _publish_in_a_process(url: str, folder: Path, source: Path, fatal: int) -> int:
    """Returns 0, or the signal that ended the process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store = Store.open(url)
            sys.settrace(_Steps(fatal))
            Registry(store, folder).publish(source, provenance(), {"won": 0.7}, "Passed.")
            sys.settrace(None)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def test_killed_at_any_step_publishing_leaves_all_of_an_adapter_or_nothing(source: Path, tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path / 'hone.db'}", tmp_path / "adapters"
    Store.open(url).close()
    outcomes = set()
    names: list[str] = []
    for fatal in range(1, 1000):
        ended = _publish_in_a_process(url, folder, source, fatal)
        assert ended in (0, signal.SIGKILL)
        store = Store.open(url)
        registry = Registry(store, folder)
        for path in folder.glob("v*"):
            check_folder(path)  # whoever sees a version's folder sees all of it
        registry.recover()
        states = _states(store)
        published = {name for name, state in states.items() if state == "candidate"}
        assert _folders(registry) == published
        assert set(states.values()) <= {"candidate", "rejected"}
        for name in published:
            registry.check(name)
        assert sorted(states, key=lambda name: int(name[1:]))[: len(names)] == names  # nothing vanished or was reused
        outcomes.add((ended, len(published)))
        for name in published:  # keeps the check of the next round short
            with store.begin() as tx:
                serving.set_state(tx, name, "rejected", "test", "")
                row = adapters.get_adapter(tx, name)
                assert row is not None
                row.manifest_hash = None
        registry.recover()
        names = sorted(states, key=lambda name: int(name[1:]))
        store.close()
        if ended == 0:
            break
    assert ended == 0, "publishing has more steps than this test tries"
    assert outcomes == {(signal.SIGKILL, 0), (signal.SIGKILL, 1), (0, 1)}
    assert fatal > 80
    assert not list(folder.glob(f"*/{MANIFEST}")) and not list(folder.glob(f"*/{CONFIG}"))
