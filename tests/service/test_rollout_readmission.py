"""An engine of several gets requests, at first or again, only once it holds and is proven to serve what they need."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from service.errors import EngineUnavailable, HoneError
from tests.service.house import House


@pytest.fixture
def engine_count() -> int:
    return 3


def test_an_engine_that_is_away_holds_up_no_promotion_and_gets_the_adapter_before_any_request(house: House) -> None:
    house.go_live()
    house.engines[2].away = True
    name = house.publish()
    house.promote(name)
    with pytest.raises(EngineUnavailable, match="can't be reached"):
        house.reconcile()
    assert house.serving().live == name
    assert house.urls_serving() == {"memory-0", "memory-1"}
    assert "memory-2 gets no requests: The engine can't be reached" in (house.rollout.problem or "")
    house.engines[2].restart()
    house.engines[2].away = False
    house.reconcile()
    assert house.urls_serving() == {"memory-0", "memory-1", "memory-2"}
    assert name in house.replicas[2].loaded and house.rollout.problem is None


def test_what_is_live_waits_for_engines_that_are_away_before_one_that_refuses_it_decides(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the one with a forgotten --max-lora-rank is up first."""
    before, live = house.go_live(), house.go_live()
    for engine in house.engines:
        engine.restart()
        engine.away = True
    house.start_service()
    odd, late = house.engines[0], house.engines[1]
    odd.away, odd.refuses = False, {live: (400, "rank 4 is above max_lora_rank 2")}
    for _ in range(3):
        with pytest.raises(HoneError):
            house.reconcile()
    assert (house.serving().live, house.row(live).state, house.urls_serving()) == (live, "live", set())
    late.away = False
    with pytest.raises(HoneError):
        house.reconcile()
    assert (house.serving().live, house.urls_serving()) == (live, {"memory-1"})

    late.restart()
    late.away = True
    with pytest.raises(HoneError):
        house.reconcile()
    monkeypatch.setattr("service.adapters.fleet.AWAY_SECONDS", 0.0)
    with suppress(HoneError):
        house.reconcile()
    assert (house.serving().live, house.row(live).state) == (before, "retired")


def test_an_engine_that_restarts_empty_gets_live_and_canary_before_requests(house: House) -> None:
    live, canary = house.go_live(), house.publish()
    house.canary(canary)
    house.reconcile()
    assert house.rollout.loaded == {live, canary}
    engine, replica = house.engines[1], house.replicas[1]
    whole, states = engine.load_adapter, []

    async def load_adapter(name: str, path: str) -> None:
        states.append(replica.serves)
        await whole(name, path)

    engine.load_adapter = load_adapter  # type: ignore[method-assign]
    engine.restart()
    house.reconcile()
    assert states == [False, False]
    assert replica.serves and replica.loaded == {live, canary}


@pytest.mark.parametrize("how", ["says it is not well", "has been ejected"])
def test_an_engine_in_doubt_is_proven_anew_before_it_gets_requests_again(house: House, how: str) -> None:
    name = house.go_live()
    replica, engine = house.replicas[1], house.engines[1]
    if how == "has been ejected":
        house.rollout.eject(replica, "a request broke off")
    else:
        engine.is_well = False
        with pytest.raises(EngineUnavailable, match="isn't well"):
            house.reconcile()
    assert not replica.serves and replica.loaded == frozenset()
    engine.is_well = True
    house.reconcile()
    assert replica.serves and replica.loaded == {name}
    assert engine.loads() == [name]  # it held it all the time


def test_an_engine_that_does_not_serve_what_is_live_gets_no_requests_and_changes_nothing_for_others(
    house: House,
) -> None:
    name = house.go_live()
    house.engines[0].restart()
    house.engines[0].refuses[name] = (400, "rank 4 is above max_lora_rank 2")
    with pytest.raises(Exception, match="rank 4 is above"):
        house.reconcile()
    assert house.serving().live == name
    assert house.urls_serving() == {"memory-1", "memory-2"}
    assert house.rollout.loaded == {name}


def test_whoever_joins_between_proof_and_flip_gets_the_new_adapter_first(house: House) -> None:
    house.go_live()
    house.engines[2].away = True
    with pytest.raises(EngineUnavailable):
        house.reconcile()
    name = house.publish()
    house.promote(name)
    whole = house.rollout._pointer.flip
    tending: list[asyncio.Task[None]] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()

        def flip(*arguments: str) -> None:
            house.engines[2].away = False

            def begin() -> None:
                tending.append(loop.create_task(house.rollout.tend(house.replicas[2])))

            loop.call_soon_threadsafe(begin)
            whole(*arguments)

        house.rollout._pointer.flip = flip  # type: ignore[method-assign,assignment]
        await house.rollout.settle()
        await tending[0]
        replica = house.replicas[2]
        assert name in replica.loaded or not replica.serves
        await house.rollout.tend(replica)
        assert replica.serves and name in replica.loaded

    house.play(body())


def test_each_engine_is_tended_by_itself(house: House) -> None:
    """One that hangs holds up neither the others' return nor a promotion."""
    hangs = asyncio.Event()

    async def models() -> Any:
        await hangs.wait()

    house.engines[0].models = models  # type: ignore[method-assign]
    name = house.publish()
    house.promote(name)

    async def body() -> None:
        await house.until(lambda: house.serving().live == name)
        await house.until(lambda: house.urls_serving() == {"memory-1", "memory-2"})
        house.engines[1].restart()
        house.rollout.eject(house.replicas[1], "a request broke off")
        await house.until(lambda: len(house.rollout.serving) == 2 and all_held(1, 2))

    def all_held(*numbers: int) -> bool:
        return all(name in house.engines[number].held for number in numbers)

    house.run(body)
