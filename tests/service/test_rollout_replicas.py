"""The rollout over several engines: two phases, one flip, and what each of them keeps."""

from __future__ import annotations

import pytest

from service.errors import EngineUnavailable
from tests.service.house import House


@pytest.fixture
def engine_count() -> int:
    return 3


def all_hold(house: House, name: str) -> bool:
    return all(name in engine.held for engine in house.engines)


def test_an_adapter_goes_live_once_every_engine_was_proven_to_serve_it(house: House) -> None:
    name = house.publish()
    house.promote(name)
    flipped_with: list[bool] = []
    whole = house.rollout._pointer.flip

    def flip(*arguments: str) -> None:
        flipped_with.append(all(name in replica.loaded for replica in house.replicas))
        whole(*arguments)

    house.rollout._pointer.flip = flip  # type: ignore[method-assign,assignment]
    house.reconcile()
    assert flipped_with == [True] and house.serving().live == name
    assert house.rollout.loaded == {name}
    assert house.row(name).reason.endswith("On all 3 engines.")


def test_nothing_flips_while_one_engine_fails_the_proof_and_the_reason_names_it(house: House) -> None:
    live, name = house.go_live(), house.publish()
    house.engines[1].idle.add(name)
    house.promote(name)
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match=r"not every engine serves it\. memory-1: v2 isn't served"):
            house.reconcile()
    desired = house.serving()
    assert (desired.live, desired.requested, house.row(name).state) == (live, name, "candidate")
    assert house.urls_serving() == {"memory-0", "memory-1", "memory-2"}  # all serve what is live
    waiting = [reason for action, reason in house.events(name) if action == "waiting"]
    assert len(waiting) == 1 and "memory-1" in waiting[0]


def test_an_adapter_that_no_engine_serves_is_rejected(house: House) -> None:
    live, name = house.go_live(), house.publish()
    for engine in house.engines:
        engine.idle.add(name)
    house.promote(name)
    house.reconcile()
    assert house.row(name).state == "rejected" and house.serving().live == live


@pytest.mark.parametrize("odd", range(3))
def test_while_some_engine_might_serve_it_set_up_otherwise_it_is_not_rejected(house: House, odd: int) -> None:
    """One of them refuses to load it, the others load it and don't serve it."""
    name = house.publish()
    for number, engine in enumerate(house.engines):
        if number == odd:
            engine.refuses[name] = (400, "rank 4 is above max_lora_rank 2")
        else:
            engine.idle.add(name)
    house.promote(name)
    house.reconcile()
    assert (house.row(name).state, house.serving().requested) == ("candidate", None)
    assert "rank 4 is above" in house.row(name).reason


def test_an_engine_that_refused_is_not_made_to_load_again_at_once(house: House) -> None:
    name = house.publish()
    house.engines[1].idle.add(name)
    house.promote(name)
    for _ in range(5):
        with pytest.raises(EngineUnavailable):
            house.reconcile()
    assert [engine.loads() for engine in house.engines] == [[name]] * 3
    house.engines[1].idle.clear()
    house.replicas[1].eject("somebody starts it again, set right")
    house.reconcile()
    assert house.serving().live == name


def test_an_engine_that_dies_in_the_middle_of_a_rollout_does_not_end_it(house: House) -> None:
    house.go_live()
    name = house.publish()
    house.promote(name)
    engine = house.engines[1]
    whole = engine.load_adapter

    async def load_adapter(name: str, path: str) -> None:
        engine.away = True
        await whole(name, path)

    engine.load_adapter = load_adapter  # type: ignore[method-assign]
    house.reconcile()
    assert house.serving().live == name
    assert house.urls_serving() == {"memory-0", "memory-2"}


def test_a_candidate_that_one_engine_refuses_waits_for_those_that_are_away(house: House) -> None:
    live, name = house.go_live(), house.publish()
    house.engines[0].refuses[name] = (400, "rank 4 is above max_lora_rank 2")
    for engine in house.engines[1:]:
        engine.away = True
    for ask in (house.promote, house.canary):
        ask(name)
        with pytest.raises(EngineUnavailable):
            house.reconcile()
        with pytest.raises(EngineUnavailable, match="waits for the engines that are away, which may serve it"):
            house.play(settled(house))
        assert house.row(name).state in ("candidate", "canary")
    assert (house.serving().live, house.serving().canary) == (live, name)


async def settled(house: House) -> None:
    await house.rollout.settle()


def test_the_history_of_each_says_what_it_waits_for(house: House) -> None:
    house.go_live()
    asked, canary = house.publish(), house.publish()
    house.engines[0].idle.add(asked)
    house.engines[1].idle.add(canary)
    house.promote(asked)
    house.canary(canary)
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match=asked):
            house.reconcile()
    for name in (asked, canary):
        (waiting,) = [why for action, why in house.events(name) if action == "waiting"]
        assert waiting.startswith(f"{name} waits") and waiting in (house.rollout.problem or "")


def test_old_versions_are_unloaded_everywhere_once_they_drain_and_the_last_are_kept(house: House) -> None:
    made = [house.go_live() for _ in range(3)]

    async def body() -> None:
        async with house.replicas[1].using(made[0]):
            made.append(house.publish())
            house.promote(made[-1])
            await house.rollout.reconcile()
            assert made[0] in house.engines[1].held  # somebody still reads from it
        await house.rollout.reconcile()

    house.start_service(keep_loaded=1)
    house.reconcile()
    house.play(body())
    assert house.serving().live == made[-1]
    assert [engine.held.keys() for engine in house.engines] == [set(made[-2:])] * 3
    loads = [engine.loads() for engine in house.engines]
    house.roll_back()
    house.reconcile()
    assert house.serving().live == made[-2]
    assert [engine.loads() for engine in house.engines] == loads  # at once


def test_a_name_is_never_loaded_twice_over_another_path(house: House) -> None:
    """vLLM's prefix cache knows an adapter by name and path: in place, it would serve what it computed before."""
    name = house.publish()
    for engine in house.engines:
        engine.held[name] = "/another/home/adapters/v1"
    house.promote(name)
    house.reconcile()
    assert [engine.calls for engine in house.engines] == [[("unload", name), ("load", name)]] * 3
    assert house.serving().live == name and all_hold(house, name)
