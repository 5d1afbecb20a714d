"""vLLM's slots: what a load pushes out of them, and how many there are, which it may tell late or never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.adapters.engine import EngineFacts
from service.adapters.registry import Registry
from service.errors import EngineAway, EngineUnavailable
from tests.service.house import House


class Slots:
    """vLLM's cache of adapters: unloading only forgets the name, and a load pushes out what was used longest ago."""

    def __init__(self, house: House) -> None:
        self.order: list[str] = []  # the last used at the end
        self.pushed_out: list[str] = []
        engine = self.engine = house.engine
        load, score = engine.load_adapter, engine.score

        async def load_adapter(name: str, path: str) -> None:
            await load(name, path)
            if len(self.order) == engine.max_loras:
                self.pushed_out.append(self.order.pop(0))
            self.order.append(name)

        async def use(model: str, *arguments: Any) -> Any:
            scored = await score(model, *arguments)
            if model in self.order:
                self.order.append(self.order.pop(self.order.index(model)))
            return scored

        engine.load_adapter, engine.score = load_adapter, use  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("max_loras", [3, 4])
def test_a_load_pushes_out_of_vllms_slots_only_what_was_unloaded(
    registry: Registry, source: Path, max_loras: int
) -> None:
    with House(registry, source) as house:
        house.engine.max_loras = max_loras
        house.start_service(keep_loaded=2)
        slots = Slots(house)
        made = [house.go_live() for _ in range(8)]
    kept = made[-3:]
    assert set(house.engine.held) == set(kept)
    assert not set(slots.pushed_out) & set(kept) and set(kept) <= set(slots.order)
    assert slots.pushed_out == made[: len(slots.pushed_out)]
    assert house.engine.most_held <= max_loras


def test_no_more_is_loaded_than_the_engine_says_it_has_slots(registry: Registry, source: Path) -> None:
    with House(registry, source) as house:
        house.engine.max_loras = 8
        house.start_service(keep_loaded=6)
        house.engine.max_loras = 3  # the engine was started with fewer than the settings say
        for _ in range(6):
            house.go_live()
    assert house.engine.most_held == 3


class Reticence:
    """vLLM tells how many slots it has only once it has answered a request; `heard` is what it told so far."""

    def __init__(self, house: House, slots: int, has_lora: bool | None = True) -> None:
        self.was_asked, self.fails, self.looks = False, False, 0
        self.heard: list[int | None] = []
        self._house = house
        engine, score = house.engine, house.engine.score

        async def facts() -> EngineFacts:
            self.looks += 1
            if self.fails:
                raise EngineAway("It did not answer in time.")
            told = slots if self.was_asked and has_lora else None
            return EngineFacts(engine.base, "vLLM 0.32.0", has_lora=has_lora, slots=told)

        async def use(*arguments: Any) -> Any:
            self.was_asked = True
            return await score(*arguments)

        engine.max_loras = 8  # what the settings say
        engine.facts = facts  # type: ignore[method-assign]
        engine.score = use  # type: ignore[method-assign, assignment]

    def start(self, keep_loaded: int) -> None:
        """Engine and service."""
        self.was_asked = False
        self._house.engine.restart()
        self._house.start_service(keep_loaded=keep_loaded)
        self._house.replica._when_told = lambda url, facts: self.heard.append(facts.slots)


def test_slots_that_vllm_tells_only_after_its_first_request_are_kept_to_from_then_on(
    registry: Registry, source: Path
) -> None:
    with House(registry, source) as house:
        vllm = Reticence(house, slots=3)
        vllm.start(keep_loaded=6)
        for _ in range(3):
            house.reconcile()
        assert (house.replica.slots, vllm.heard) == (8, [None])
        for _ in range(6):
            house.go_live()
        assert (house.replica.slots, vllm.heard, house.engine.most_held) == (3, [None, 3], 3)
        looks = vllm.looks
        house.reconcile()
        assert vllm.looks == looks


@pytest.mark.parametrize("has_lora", [False, None])
def test_a_vllm_that_never_tells_its_slots_is_asked_once(
    registry: Registry, source: Path, has_lora: bool | None
) -> None:
    """One without LoRA, and one that keeps its figures to itself."""
    with House(registry, source) as house:
        vllm = Reticence(house, slots=3, has_lora=has_lora)
        vllm.start(keep_loaded=2)
        for _ in range(3):
            house.reconcile()
        assert (vllm.looks, house.rollout.serving) == (1, [house.replica])


def test_an_engine_that_is_well_and_does_not_tell_its_slots_keeps_its_requests(
    registry: Registry, source: Path
) -> None:
    with House(registry, source) as house:
        vllm = Reticence(house, slots=3)
        vllm.start(keep_loaded=2)
        house.reconcile()
        vllm.fails = True
        house.reconcile()
        assert (house.rollout.serving, house.replica.ejections) == ([house.replica], 0)
        vllm.fails, vllm.was_asked = False, True
        house.reconcile()
        assert house.replica.slots == 3
        house.rollout.eject(house.replica, "a request broke off")
        vllm.fails = True
        with pytest.raises(EngineUnavailable, match="did not answer"):
            house.reconcile()  # of one that comes back all has to be known


def test_what_was_loaded_before_the_slots_were_known_makes_room(registry: Registry, source: Path) -> None:
    with House(registry, source) as house:
        vllm = Reticence(house, slots=2)
        vllm.start(keep_loaded=2)
        house.go_live()
        canary, after = house.publish(), house.publish()
        vllm.start(keep_loaded=2)
        house.canary(canary)
        house.promote(after)
        house.reconcile()
        assert len(house.engine.held) == 3 and house.serving().live == after
        house.reconcile()
        assert house.engine.held.keys() == {canary, after}
