"""An adapter that can't be proven is rejected, put aside or kept waiting, by whose fault it is; the store says why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import Any

import pytest

from service.adapters.engine import score_all
from service.adapters.fingerprint import LocalModel, base_fingerprint
from service.adapters.manifest import BaseModelIdentity
from service.errors import AdapterBroken, EngineRefused, EngineUnavailable
from tests.fixtures.adapters import provenance, write_base
from tests.fixtures.waiting import PATIENCE
from tests.service.house import House


def test_an_adapter_that_loads_and_changes_nothing_is_rejected(house: House) -> None:
    live = house.go_live()
    name = house.publish(gain=0.04)  # within the tolerance of the base: only the comparison with it can tell
    house.engine.idle.add(name)
    house.promote(name)
    house.reconcile()
    assert house.row(name).state == "rejected"
    assert "answers like base" in house.row(name).reason
    desired = house.serving()
    assert (desired.live, desired.requested) == (live, None)
    assert house.engine.held.keys() == {live}


def test_an_adapter_that_is_served_otherwise_than_trained_is_rejected_with_the_figures(house: House) -> None:
    name = house.publish(gain=0.5)
    house.engine.idle.add(name)
    house.promote(name)
    house.reconcile()
    assert house.row(name).state == "rejected"
    assert "differ from the trainer's by 0.5000 nats per token, above rollout.probe_tolerance" in house.row(name).reason
    assert house.engine.held == {}


def test_an_adapter_that_the_engine_refuses_is_put_aside_in_the_engines_words(house: House) -> None:
    name = house.publish()
    house.engine.refuses[name] = (400, "rank 64 is above max_lora_rank 32")
    house.promote(name)
    house.reconcile()
    assert house.row(name).state == "candidate" and house.serving().requested is None
    assert "refused to load v1: rank 64 is above" in house.row(name).reason
    house.engine.refuses.clear()
    house.promote(name)
    house.reconcile()
    assert house.serving().live == name


def test_an_adapter_trained_on_another_base_is_put_aside(house: House, tmp_path: Path) -> None:
    house.registry.base = LocalModel(write_base(tmp_path / "base"))
    name = house.publish(base=BaseModelIdentity(name="Qwen/Qwen3-0.6B", sha256="0" * 64))
    house.promote(name)
    house.reconcile()
    assert house.row(name).state == "candidate" and house.serving().requested is None
    assert "another base model (Qwen/Qwen3-0.6B, fingerprint 0000" in house.row(name).reason


def test_a_base_that_is_downloaded_after_the_start_counts_from_then_on_and_is_hashed_beside_the_loop(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed_in: list[Thread] = []

    def fingerprint(model: Path) -> str:
        hashed_in.append(current_thread())
        return base_fingerprint(model)

    monkeypatch.setattr("service.adapters.fingerprint.base_fingerprint", fingerprint)
    base = tmp_path / "base"
    house.registry.base = LocalModel(base)
    before = house.go_live()
    write_base(base)
    other = house.publish()
    house.promote(other)
    house.reconcile()
    assert (house.serving().live, house.row(other).state) == (before, "candidate")
    assert "another base model (sprout, fingerprint" in house.row(other).reason
    own = house.publish(base=BaseModelIdentity(name="sprout", sha256=base_fingerprint(base)))
    house.promote(own)
    house.reconcile()
    assert house.serving().live == own
    assert len(hashed_in) == 2  # once, and once more before the other was refused
    assert main_thread() not in hashed_in


@pytest.mark.parametrize("how", ["away", "not set up for adapters", "full", "of another base"])
def test_an_engine_at_fault_is_no_judgement_on_the_adapter(house: House, how: str) -> None:
    name = house.publish()
    house.promote(name)
    if how == "away":
        house.engine.away = True
    elif how == "of another base":
        house.engine.drift = 1.0
    else:
        house.engine.refuses[name] = (404, "Not Found") if "not set up" in how else (409, "8 adapters are loaded")
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            house.reconcile()
    assert house.row(name).state == "candidate" and house.serving().requested == name
    house.engine.away, house.engine.drift = False, 0.0
    house.engine.refuses.clear()
    house.reconcile()
    assert house.serving().live == name


def test_a_live_adapter_that_this_engine_can_not_serve_is_put_aside_not_rejected(house: House) -> None:
    first, second = house.go_live(), house.go_live()
    house.engine.restart()
    for name in (first, second):
        house.engine.refuses[name] = (400, "rank 4 is above max_lora_rank 2")
    house.reconcile()
    assert house.serving().live == "base"
    assert {house.row(first).state, house.row(second).state} == {"retired"}
    house.promote(first)
    house.reconcile()
    assert house.row(first).state == "retired" and house.serving().requested is None
    house.engine.refuses.clear()
    house.promote(second)
    house.reconcile()
    assert house.serving().live == second


def test_a_canary_is_loaded_too_and_rejected_when_it_can_not_be_proven(house: House) -> None:
    live, good, bad = house.go_live(), house.publish(), house.publish()
    house.canary(good)
    house.reconcile()
    assert house.rollout.loaded == {live, good}
    house.engine.idle.add(bad)
    house.canary(bad)
    house.reconcile()
    assert house.row(bad).state == "rejected" and house.serving().canary is None
    assert house.serving().live == live


def test_when_one_probe_can_not_be_scored_the_others_are_given_up(house: House) -> None:
    name = house.publish(probes=provenance().probes * 3)
    begun: list[int] = []
    given_up: list[int] = []

    async def score(*arguments: Any) -> tuple[float, ...]:
        begun.append(1)
        try:
            if len(begun) == 3:
                raise EngineRefused("The engine does not like this.", 400)
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            given_up.append(1)
            raise
        return ()

    house.engine.score = score  # type: ignore[method-assign,assignment]

    async def use() -> None:
        with pytest.raises(AdapterBroken, match="refused to score the probes of v1: The engine does not like this"):
            async with house.replica.using(name):
                pass
        assert len(given_up) == 2
        here = asyncio.current_task()
        assert here is not None and here.cancelling() == 0  # else whatever it awaits next under a timeout would end

    house.play(use())


def test_who_is_cancelled_while_scores_are_given_up_ends(house: House) -> None:
    giving_up = asyncio.Event()

    async def score(model: str, prompt: object, reply: tuple[int, ...]) -> tuple[float, ...]:
        if reply == (1,):
            raise EngineRefused("The engine does not like this.", 400)
        try:
            await asyncio.Event().wait()
        finally:
            giving_up.set()
            await asyncio.Event().wait()  # it takes its time
        return ()

    house.engine.score = score  # type: ignore[method-assign,assignment]

    async def body() -> None:
        scoring = asyncio.create_task(score_all(house.engine, "sprout", [((0,), (1,)), ((0,), (2,))]))
        await giving_up.wait()
        scoring.cancel()
        await asyncio.wait((scoring,), timeout=PATIENCE)
        assert scoring.cancelled()

    house.play(body())


def test_a_request_that_changed_while_it_was_proven_flips_nothing(house: House) -> None:
    first, second = house.publish(), house.publish()
    house.promote(first)
    whole = house.engine.score

    async def score(*arguments: Any) -> Any:
        if house.serving().requested == first:
            house.promote(second)
        return await whole(*arguments)

    house.engine.score = score  # type: ignore[method-assign,assignment]  # the operator changes their mind in this moment
    house.reconcile()
    assert (house.serving().live, house.serving().requested) == ("base", second)
    house.reconcile()
    assert house.serving().live == second


def test_an_engine_that_restarts_in_the_middle_of_the_proof_is_no_judgement_on_the_adapter(house: House) -> None:
    live, name = house.go_live(), house.publish()
    house.promote(name)
    whole, restarts = house.engine.score, [name, live]

    async def score(model: str, *arguments: Any) -> Any:
        if restarts and model == restarts[0]:
            restarts.pop(0)
            house.engine.restart()
        return await whole(model, *arguments)

    house.engine.score = score  # type: ignore[method-assign,assignment]
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="restarted"):
            house.reconcile()
    house.reconcile()
    assert house.serving().live == name and house.row(live).state == "retired"
