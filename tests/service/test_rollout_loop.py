"""The rollout's loop: it wakes, waits, goes on after a bug or an engine's absence, and ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from threading import Event

import pytest

from service.errors import EngineAway
from service.store.tables import Serving
from tests.fixtures.adapters import HeldModel
from tests.fixtures.waiting import PATIENCE
from tests.service.house import House


def test_what_keeps_an_adapter_waiting_stands_once_in_its_history(house: House) -> None:
    name = house.publish()
    house.promote(name)
    house.engine.refuses[name] = (404, "Not Found")

    async def body() -> None:
        await house.until(lambda: len(house.engine.loads()) >= 3)
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in (house.rollout.problem or "")
        waiting = [reason for action, reason in house.events(name) if action == "waiting"]
        assert len(waiting) == 1 and "Not Found" in waiting[0]
        house.engine.refuses.clear()
        house.rollout.wake()
        await house.until(lambda: house.serving().live == name)
        await house.until(lambda: house.rollout.problem is None)

    house.run(body)


def test_an_engine_that_comes_back_finds_its_adapters_again(house: House) -> None:
    name = house.go_live()

    async def body() -> None:
        await house.until(lambda: house.rollout.loaded == {name})
        house.engine.restart()
        house.engine.away = True
        await house.until(lambda: house.rollout.problem is not None)
        assert house.rollout.loaded == frozenset()
        house.engine.away = False
        await house.until(lambda: house.rollout.loaded == {name})
        assert house.engine.held.keys() == {name}

    house.run(body)


def test_waking_makes_a_promotion_wait_for_no_tick(house: House) -> None:
    house.start_service(reconcile_seconds=3600.0)
    name = house.publish()

    async def body() -> None:
        house.promote(name)
        house.rollout.wake()
        await house.until(lambda: house.serving().live == name)

    house.run(body)


@pytest.mark.parametrize("turns", range(5))
def test_the_loop_ends_when_it_is_cancelled_just_after_it_was_woken(
    house: House, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """`turns` of the event loop lie between the two."""
    rollout, rounds = house.start_service(reconcile_seconds=3600.0), []

    async def settle() -> None:
        rounds.append(1)

    monkeypatch.setattr(rollout, "settle", settle)

    async def body() -> None:
        loop = asyncio.create_task(rollout.run())
        await house.until(lambda: bool(rounds))
        rollout.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        loop.cancel()
        assert loop in (await asyncio.wait((loop,), timeout=PATIENCE))[0]

    house.play(body())


def test_a_bug_in_one_round_does_not_end_the_loop(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, rounds = house.rollout.settle, []

    async def settle() -> bool:
        rounds.append(1)
        if len(rounds) == 1:
            raise KeyError("a bug")
        return await whole()

    monkeypatch.setattr(house.rollout, "settle", settle)
    name = house.publish()
    house.promote(name)

    async def body() -> None:
        await house.until(lambda: bool(rounds), despite_bugs=True)
        house.rollout.wake()
        await house.until(lambda: house.serving().live == name, despite_bugs=True)

    house.run(body)


def test_a_read_from_before_a_flip_that_ends_after_it_changes_nothing(house: House) -> None:
    house.reconcile()
    name = house.publish()
    house.promote(name)
    rollout, read = house.rollout, house.rollout._pointer.read
    has_read, goes_on = Event(), Event()

    def slow_read() -> Serving:
        desired = read()
        has_read.set()
        assert goes_on.wait(PATIENCE)
        return desired

    async def body() -> None:
        rollout._pointer.read = slow_read  # type: ignore[method-assign]
        stale = asyncio.create_task(rollout.tend(house.replica))
        await asyncio.to_thread(has_read.wait, 20)
        rollout._pointer.read = read  # type: ignore[method-assign]
        await rollout.settle()
        goes_on.set()
        await stale
        assert (rollout._fleet.live, house.replica.needed, set(house.replica._slots.wanted)) == (name, (name,), {name})

    house.play(body())
    assert house.serving().live == name


@pytest.mark.parametrize("silences", [1, 2])
def test_an_engine_that_is_too_busy_to_answer_once_is_asked_again(
    house: House, monkeypatch: pytest.MonkeyPatch, silences: int
) -> None:
    house.go_live()
    monkeypatch.setattr("service.adapters.replica.LOOK_SECONDS", 0.05)
    answer, left = house.engine.models, silences

    async def models() -> Sequence[HeldModel]:
        nonlocal left
        left -= 1
        if left >= 0:
            await asyncio.sleep(60)
        return await answer()

    house.engine.models = models  # type: ignore[method-assign]
    with nullcontext() if silences == 1 else pytest.raises(EngineAway, match="did not answer in time"):
        house.reconcile()
    assert house.replica.serves == (silences == 1)
