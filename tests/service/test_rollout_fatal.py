"""An adapter that engines go away over is tried on one after the other, never on the last that serves."""

from __future__ import annotations

from contextlib import suppress

import pytest

from service.adapters.engine import EngineBrokeOff
from service.errors import EngineUnavailable
from tests.fixtures.adapters import MemoryEngine
from tests.service.house import House


@pytest.fixture
def engine_count() -> int:
    return 3


def dies_over(engine: MemoryEngine, name: str) -> None:
    """The engine goes away when it is to load this; it comes back empty when the test says so (`away`)."""
    whole = engine.load_adapter

    fatal = name

    async def load_adapter(name: str, path: str) -> None:
        if name == fatal:
            engine.calls.append(("load", name))
            engine.restart()
            engine.away = True
            raise EngineBrokeOff("The connection to the engine broke.")
        await whole(name, path)

    engine.load_adapter = load_adapter  # type: ignore[method-assign]


def tries(house: House, name: str) -> int:
    return sum(engine.loads().count(name) for engine in house.engines)


@pytest.mark.parametrize("is_canary", [False, True])
def test_what_engines_go_away_over_takes_one_at_a_time_never_the_last_and_is_put_aside(
    house: House, is_canary: bool
) -> None:
    live, name = house.go_live(), house.publish()
    for engine in house.engines:
        dies_over(engine, name)
    (house.canary if is_canary else house.promote)(name)
    with pytest.raises(EngineUnavailable, match="v2 waits, as an engine went away over it"):
        house.reconcile()
    assert (tries(house, name), len(house.urls_serving()), set(house.rollout.loaded)) == (1, 2, {live})
    other = next(engine for engine in house.engines if not engine.away)
    other.away = True  # for reasons of its own
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="v2 waits for more engines"):
            house.reconcile()
    assert (tries(house, name), len(house.urls_serving())) == (1, 1)
    other.away = False
    for _ in range(3):
        with suppress(EngineUnavailable):
            house.reconcile()
    assert tries(house, name) == 2
    desired = house.serving()
    assert (desired.live, desired.requested, desired.canary, house.row(name).state) == (live, None, None, "candidate")
    assert "Engines went away over v2" in house.row(name).reason and len(house.urls_serving()) == 1
    for engine in house.engines:
        engine.away = False
    house.reconcile()
    assert len(house.urls_serving()) == 3 and house.rollout.loaded == {live}


def test_at_a_start_a_canary_is_brought_to_one_engine_first_and_nobody_waits_for_one_that_engines_go_away_over(
    house: House,
) -> None:
    live, canary = house.go_live(), house.publish()
    for engine in house.engines:
        dies_over(engine, canary)
    house.canary(canary)
    house.start_service()
    for _ in range(2):
        with suppress(EngineUnavailable):
            house.reconcile()
    assert (tries(house, canary), len(house.urls_serving()), set(house.rollout.loaded)) == (2, 1, {live})
    assert house.serving().canary is None and house.row(canary).state == "candidate"


def test_one_engine_that_goes_away_over_what_its_fellows_serve_is_its_own_affair(house: House) -> None:
    house.go_live()
    name = house.publish()
    dies_over(house.engines[1], name)
    house.promote(name)
    house.reconcile()
    assert house.serving().live == name and house.urls_serving() == {"memory-0", "memory-2"}
