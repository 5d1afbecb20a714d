"""Engines that serve another model than is asked for: they get no requests, and what is said of them is that."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from service.errors import EngineRefused, HoneError
from tests.service.house import House

OTHER = "It serves another model: qwen; engine.model is sprout."


@pytest.fixture
def engine_count() -> int:
    return 3


def reconciled(house: House) -> None:
    """Whatever of it fails: the replicas say why."""
    with suppress(HoneError):
        house.reconcile()


@pytest.mark.parametrize("live", [False, True])
def test_it_is_told_so_and_made_to_load_nothing(house: House, live: bool) -> None:
    late = house.engines[2]
    late.base, late.away = "qwen", True
    if live:
        house.promote(house.publish())
    reconciled(house)
    late.away = False
    reconciled(house)
    assert house.urls_serving() == {"memory-0", "memory-1"}
    assert house.replicas[2].problem == OTHER and house.rollout.problem == f"memory-2 gets no requests: {OTHER}"
    assert not late.calls


def test_the_same_model_by_another_name_is_told_with_both_names(house: House) -> None:
    late = house.engines[2]
    late.base, late.away = "our-sprout", True
    reconciled(house)
    late.away = False
    reconciled(house)
    assert house.urls_serving() == {"memory-0", "memory-1"}
    told = str(house.replicas[2].problem)
    assert "by another name: our-sprout; memory-0 serves sprout." in told and "--served-model-name" in told


def test_one_that_answered_first_gives_way_to_those_that_serve_what_is_asked_for(house: House) -> None:
    """Nothing that is live has proven it: the name is all there is."""
    house.engines[0].base = "qwen"
    for engine in house.engines[1:]:
        engine.away = True
    reconciled(house)
    assert house.urls_serving() == {"memory-0"}  # as long as there is no other
    for engine in house.engines[1:]:
        engine.away = False
    for _ in range(2):
        reconciled(house)
    assert house.urls_serving() == {"memory-1", "memory-2"} and house.replicas[0].problem == OTHER


def test_what_was_proven_stays_though_its_name_is_another(house: House) -> None:
    for engine in house.engines[:2]:
        engine.base = "alias"
    house.engines[2].away = True
    house.promote(house.publish())
    reconciled(house)
    house.engines[2].away = False
    reconciled(house)
    assert house.urls_serving() == {"memory-0", "memory-1"} and "memory-0 serves alias" in str(house.rollout.problem)


def test_why_it_can_t_be_proven_is_told_with_that(house: House) -> None:
    """Also where no other engine is there to be compared with."""
    name = house.go_live()
    house.start_service()
    for engine in house.engines[1:]:
        engine.away = True
    alone = house.engines[0]
    alone.restart()
    alone.base, alone.refuses[name] = "qwen", (400, "other shapes")
    reconciled(house)
    assert str(house.replica.problem).startswith(f"{OTHER} The engine refused to load {name}: other shapes.")
    alone.base = "sprout"
    house.replica.eject("somebody starts it again, with the model that is asked for")
    alone.refuses.clear()
    reconciled(house)
    assert house.urls_serving() == {"memory-0"}


def test_an_engine_that_can_t_score_has_not_restarted(house: House) -> None:
    live = house.go_live()

    async def score(*arguments: Any) -> Any:
        raise EngineRefused("Not Found", 404)

    house.engines[0].score = score  # type: ignore[method-assign,assignment]
    house.start_service()
    reconciled(house)
    assert str(house.replica.problem).startswith(f"The engine can't score the probes of {live}: Not Found. It needs")
    assert house.urls_serving() == {"memory-1", "memory-2"} and house.serving().live == live
