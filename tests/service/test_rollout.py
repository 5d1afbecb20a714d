"""The rollout: whatever restarts, the engine ends in the desired state, and what is live was proven to be served."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fixtures.adapters import write_source
from tests.service.house import House


def test_a_requested_adapter_is_loaded_proven_and_only_then_live(house: House) -> None:
    name = house.publish()
    house.reconcile()
    assert house.engine.held == {}
    house.promote(name)
    house.reconcile()
    desired = house.serving()
    assert (desired.live, desired.requested) == (name, None)
    assert house.engine.held == {name: str(house.registry.folder / name)}
    assert house.rollout.loaded == {name}
    assert house.row(name).reason.startswith("Better. Proved: engine and trainer agree within 0.0000 nats per token")


def test_a_second_reconciliation_changes_nothing(house: House) -> None:
    house.go_live()
    calls = list(house.engine.calls)
    house.reconcile()
    assert house.engine.calls == calls


def test_after_a_restart_of_the_engine_what_is_live_is_loaded_again(house: House) -> None:
    name = house.go_live()
    canary = house.publish()
    house.canary(canary)
    house.reconcile()
    house.engine.restart()
    house.reconcile()
    assert house.engine.held.keys() == {name, canary}
    assert house.rollout.loaded == {name, canary}


def test_after_a_restart_of_the_service_everything_is_proven_again_and_nothing_reloaded(house: House) -> None:
    name = house.go_live()
    house.start_service()
    assert house.rollout.loaded == frozenset()
    house.reconcile()
    assert house.rollout.loaded == {name}
    assert house.engine.loads() == [name]


def test_a_name_from_another_home_is_unloaded_before_ours_is_loaded(house: House) -> None:
    name = house.publish()
    house.engine.held[name] = "/another/home/adapters/v1"
    house.promote(name)
    house.reconcile()
    assert house.engine.held == {name: str(house.registry.folder / name)}
    assert house.serving().live == name


@pytest.mark.parametrize("are_true", [True, False])
def test_what_an_engine_still_holds_of_a_home_that_is_gone_is_loaded_anew(house: House, are_true: bool) -> None:
    """A wiped home's first adapter has name and place of the one before; `are_true`: what it says of itself is."""
    name, engine = house.publish(), house.engine
    engine.held[name] = str(house.registry.folder / name)
    engine.idle.add(name)  # it holds other weights
    whole = engine.load_adapter

    async def load_adapter(name: str, path: str) -> None:
        await whole(name, path)
        if are_true:
            engine.idle.discard(name)

    engine.load_adapter = load_adapter  # type: ignore[method-assign]
    house.promote(name)
    house.reconcile()
    loaded_anew = [("unload", name), ("load", name)]
    if are_true:
        assert (house.serving().live, engine.calls) == (name, loaded_anew)
    else:
        assert (house.row(name).state, engine.calls) == ("rejected", [*loaded_anew, ("unload", name)])


def test_what_an_engine_remembers_under_an_adapter_is_told_apart_by_the_manifest(house: House) -> None:
    name = house.go_live()
    assert house.engine.salts == {name: house.row(name).manifest_hash}


def test_rolling_back_needs_no_load(house: House) -> None:
    first, second = house.go_live(), house.go_live()
    assert house.engine.loads() == [first, second]
    house.roll_back()
    house.reconcile()
    assert house.serving().live == first
    assert house.engine.loads() == [first, second]
    house.roll_back("base")
    house.reconcile()
    assert house.serving().live == "base"


def test_another_service_at_the_same_engine_and_store_is_no_trouble(house: House) -> None:
    one = house.rollout
    other = house.start_service()
    name = house.publish()
    house.promote(name)

    async def both() -> None:
        await asyncio.gather(one.reconcile(), other.reconcile())
        await asyncio.gather(one.reconcile(), other.reconcile())

    house.play(both())
    assert house.serving().live == name
    assert house.row(name).state == "live"
    assert one.loaded == other.loaded == {name}


def test_adapters_of_all_kinds_of_sources_go_live_one_after_the_other(house: House, tmp_path: Path) -> None:
    for seed in range(3):
        house.source = write_source(tmp_path / f"source {seed}", seed=seed)
        house.go_live(gain=0.1 * (seed + 1))
    assert [house.row(f"v{number}").state for number in (1, 2, 3)] == ["retired", "retired", "live"]
