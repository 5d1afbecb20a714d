"""A canary over several engines waits until all serve it, and keeps no engine from requests, whatever its trouble."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from service.errors import EngineUnavailable, HoneError
from tests.service.house import House


@pytest.fixture
def engine_count() -> int:
    return 3


def test_a_canary_waits_until_every_engine_serves_it(house: House) -> None:
    live, canary = house.go_live(), house.publish()
    house.engines[2].idle.add(canary)
    house.canary(canary)
    with pytest.raises(EngineUnavailable, match="memory-2"):
        house.reconcile()
    assert house.rollout.loaded == {live} and house.row(canary).state == "canary"
    assert len(house.urls_serving()) == 3


def load_nothing(house: House, canary: str) -> None:
    for engine in house.engines:
        engine.refuses[canary] = (404, "Not Found")


def differ_from_the_trainer(house: House, canary: str) -> None:
    for engine in house.engines:
        engine.drift = 1.0


def refuse_while_others_are_away(house: House, canary: str) -> None:
    house.engines[0].refuses[canary] = (400, "rank 4 is above max_lora_rank 2")
    for engine in house.engines[1:]:
        engine.away = True


def have_one_slot(house: House, canary: str) -> None:
    for engine in house.engines:
        engine.restart()
        engine.max_loras = 1


def fail_the_proof_at_one(house: House, canary: str) -> None:
    house.engines[0].restart()
    house.engines[0].idle.add(canary)


@pytest.mark.parametrize(
    ("trouble", "is_live_served"),
    [
        (load_nothing, True),
        (differ_from_the_trainer, False),
        (refuse_while_others_are_away, True),
        (have_one_slot, True),
        (fail_the_proof_at_one, True),
    ],
)
def test_a_canary_that_makes_trouble_keeps_no_engine_from_its_requests(
    house: House, trouble: Callable[[House, str], None], is_live_served: bool
) -> None:
    live = house.go_live() if is_live_served else "base"
    canary = house.publish()
    house.canary(canary)
    house.reconcile()
    for engine in house.engines:
        engine.restart()
    trouble(house, canary)
    house.start_service()
    for _ in range(3):
        with suppress(HoneError):
            house.reconcile()
    assert house.urls_serving() == {engine.url for engine in house.engines if not engine.away}
    assert house.serving().live == live and house.rollout.loaded == ({live} if is_live_served else set())
    assert canary in (house.rollout.problem or "") and house.serving().canary == canary
