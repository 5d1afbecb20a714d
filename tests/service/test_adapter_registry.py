"""Publishing, checking, exporting and importing: an adapter is registered whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from service.adapters.fingerprint import base_fingerprint
from service.adapters.manifest import WEIGHTS, BaseModelIdentity, Manifest
from service.adapters.registry import Registry
from service.errors import AdapterBroken, BadInput, LeaseLost, NotFound
from service.store.clock import now
from service.store.queries import adapters, runs, serving
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_base, write_source
from tests.fixtures.schema import check_manifest
from tests.service.registered import folders, states


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
    assert folders(registry) == set()
    assert states(registry.store) == {"v1": "rejected"}
    assert registry.publish(source, provenance(), {}, "Passed.") == "v2"


def test_a_broken_source_becomes_no_adapter(registry: Registry, source: Path) -> None:
    (source / WEIGHTS).unlink()
    with pytest.raises(AdapterBroken, match="is missing"):
        registry.publish(source, provenance(), {}, "Passed.")
    assert folders(registry) == set()
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
    assert folders(registry) == {"v1"}
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
    assert states(store) == {"v1": "candidate"}
    store.close()
