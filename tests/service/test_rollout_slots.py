"""What an engine holds: never more than it can, with room for what operators ask for and the way back."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from service.errors import EngineUnavailable, ModelNotFound
from service.routing import resolve
from tests.service.house import House


def test_a_promotion_that_waits_keeps_no_old_version_loaded(house: House) -> None:
    house.engine.max_loras = 5
    house.start_service(keep_loaded=1)
    old, live, name, canary = house.publish(), house.go_live(), house.publish(), house.publish()
    house.promote(name)
    house.canary(canary)
    house.engine.refuses[name] = (404, "Not Found")

    async def body() -> None:
        for version in (old, house.publish()):
            async with house.replica.using(version):
                pass
        assert len(house.engine.held) == 3
        with pytest.raises(EngineUnavailable, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await house.rollout.reconcile()

    house.play(body())
    assert len(house.engine.held) == 3 and {live, canary} < house.engine.held.keys()


def test_the_engine_never_holds_more_than_it_can(house: House) -> None:
    made = [house.go_live() for _ in range(6)]
    assert house.engine.most_held <= house.engine.max_loras
    assert house.engine.held.keys() == set(made[-3:])  # live and two retired ones
    house.start_service(keep_loaded=1)
    house.reconcile()
    assert house.engine.held.keys() == set(made[-2:])


def test_what_others_loaded_is_left_alone_but_counted(house: House) -> None:
    house.engine.held["sql-lora"] = "/theirs"
    for _ in range(3):
        house.go_live()
    assert "sql-lora" in house.engine.held
    assert house.engine.most_held <= house.engine.max_loras


def test_the_policy_of_a_training_is_never_served_nor_unloaded(house: House) -> None:
    """It is loaded under a passing name for a while (learner.passing), and counts as others' adapters do."""
    passing = "passing-run_7-0a1b2c3d-1"
    house.engine.held[passing] = str(house.registry.folder / "passing" / passing)
    for _ in range(3):
        house.go_live()
    assert passing in house.engine.held and passing not in house.rollout.loaded
    assert house.engine.most_held <= house.engine.max_loras
    with house.registry.store.read() as tx, pytest.raises(ModelNotFound):
        resolve(tx, f"hone:{passing}")


@pytest.mark.parametrize("is_held", [True, False])
def test_what_users_ask_for_leaves_operators_a_slot_and_the_way_back(house: House, is_held: bool) -> None:
    """`is_held`: what users ask for was loaded before; it takes no load then, and a slot all the same."""
    house.engine.max_loras = 5 if is_held else 4
    house.start_service(keep_loaded=4 if is_held else 1)
    versions = [house.go_live() for _ in range(3)]
    previous, live = house.go_live(), house.go_live()
    candidate = house.publish()

    async def use(name: str) -> None:
        await held.enter_async_context(house.replica.using(name))

    held = AsyncExitStack()

    async def body() -> None:
        async with held:
            await use(versions[0])
            await use(versions[1])
            with pytest.raises(EngineUnavailable, match="kept for what operators ask for"):
                for name in (versions[2], house.publish()):
                    await use(name)
            assert {live, previous} <= house.engine.held.keys()  # it goes last of all
            house.promote(candidate)
            await house.rollout.reconcile()
            assert house.serving().live == candidate

    house.play(body())


def test_with_the_fewest_slots_a_version_is_served_on_demand_beside_a_canary_unless_something_waits_for_the_slot(
    house: House,
) -> None:
    live, canary, wanted, candidate = house.go_live(), house.publish(), house.publish(), house.publish()
    house.canary(canary)
    house.reconcile()

    async def body() -> None:
        async with house.replica.using(wanted):
            assert house.engine.held.keys() == {live, canary, wanted}
            house.promote(candidate)
            with pytest.raises(EngineUnavailable, match="All 3 adapters that the engine can hold are in use"):
                await house.rollout.reconcile()
        with pytest.raises(EngineUnavailable, match="kept for what operators ask for"):
            async with house.replica.using(house.publish()):
                pass
        await house.rollout.reconcile()
        assert house.serving().live == candidate

    house.play(body())


def test_who_takes_hold_while_others_are_being_unloaded_keeps_it(house: House) -> None:
    house.engine.max_loras = 5
    house.start_service(keep_loaded=4)
    made = [house.go_live() for _ in range(5)]
    house.start_service(keep_loaded=1)
    whole, held = house.engine.unload_adapter, AsyncExitStack()

    async def unload_adapter(name: str) -> None:
        """In the moment that the first one goes, somebody begins to use all the others."""
        nobody_went_yet = len(house.engine.held) == len(made)
        for other in house.rollout.loaded if nobody_went_yet else ():
            await held.enter_async_context(house.replica.using(other))
        await whole(name)

    async def body() -> None:
        for name in made:
            async with house.replica.using(name):  # loaded and proven, as far as the rollout knows
                pass
        house.engine.unload_adapter = unload_adapter  # type: ignore[method-assign]
        await house.rollout.reconcile()
        assert len(house.engine.held) == 4
        await held.aclose()
        await house.rollout.reconcile()
        assert house.engine.held.keys() == {made[-1], made[-2]}

    house.play(body())
