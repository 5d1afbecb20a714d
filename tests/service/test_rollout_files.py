"""An adapter's files that are broken, can't be read for a while, come slowly or come back: who is live meanwhile."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from service.adapters.manifest import WEIGHTS
from service.errors import AdapterUnreachable, EngineUnavailable, HoneError
from tests.fixtures.waiting import PATIENCE
from tests.service.house import House


def test_a_broken_folder_is_rejected_by_the_name_of_the_file(house: House) -> None:
    name = house.publish()
    house.break_folder(name)
    house.promote(name)
    house.reconcile()
    assert house.row(name).state == "rejected"
    assert "adapter_model.safetensors is missing" in house.row(name).reason
    assert house.serving().live == "base" and house.engine.calls == []


def fail_to_read(patch: pytest.MonkeyPatch, *names: str) -> None:
    """From now on the disk fails where the weights of these adapters are."""
    whole = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == WEIGHTS and path.parent.name in names:
            raise OSError(errno.EIO, "Input/output error")
        return whole(path, *arguments, **options)

    patch.setattr(Path, "open", fail)


@pytest.mark.parametrize("engine_restarts", [False, True])
def test_a_disk_that_fails_for_a_moment_is_no_judgement_on_the_adapter(
    house: House, monkeypatch: pytest.MonkeyPatch, engine_restarts: bool
) -> None:
    live, name = house.go_live(), house.publish()
    house.promote(name)
    if engine_restarts:  # then what is live has to be read, too
        house.engine.restart()
    with monkeypatch.context() as patch:
        fail_to_read(patch, live, name)
        for _ in range(2):
            with pytest.raises(HoneError, match=f"{WEIGHTS} can't be read: Input/output error"):
                house.reconcile()
    assert (house.serving().live, house.serving().requested) == (live, name)
    assert (house.row(live).state, house.row(name).state) == ("live", "candidate")
    house.reconcile()
    assert house.serving().live == name


@pytest.mark.parametrize("what_restarts", ["engine", "service"])
def test_when_what_is_live_can_not_be_read_for_long_the_one_before_takes_over(
    house: House, monkeypatch: pytest.MonkeyPatch, what_restarts: str
) -> None:
    first, second = house.go_live(), house.go_live()
    if what_restarts == "engine":
        house.engine.restart()
    else:
        house.start_service()
    with monkeypatch.context() as patch:
        fail_to_read(patch, second)
        with pytest.raises(AdapterUnreachable):
            house.reconcile()
        assert house.serving().live == second
        patch.setattr("service.adapters.fleet.UNREADABLE_SECONDS", 0.0)
        house.reconcile()
        assert (house.serving().live, house.row(second).state) == (first, "retired")
        assert house.rollout.loaded == {first}
        told = house.replacement()
        assert told is not None and "can't be read: Input/output error" in told
        assert told.endswith(f"When that is mended: `hone adapters promote {second}`.")
        house.promote(second)  # too early: what was asked for waits, and nobody waits for it
        with pytest.raises(AdapterUnreachable):
            house.reconcile()
        assert (house.serving().live, house.serving().requested) == (first, second)
    house.reconcile()
    assert (house.serving().live, house.replacement()) == (second, None)


def test_a_time_in_which_it_could_be_read_ends_the_wait_for_what_is_live(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = house.go_live()
    house.engine.restart()
    with monkeypatch.context() as patch:
        fail_to_read(patch, live)
        with pytest.raises(AdapterUnreachable):
            house.reconcile()
    monkeypatch.setattr("service.adapters.fleet.UNREADABLE_SECONDS", 0.0)
    house.engine.refuses[live] = (409, "8 adapters are loaded")
    with pytest.raises(EngineUnavailable):
        house.reconcile()
    assert (house.serving().live, house.replica.refusals.unreadable(live)) == (live, None)


def test_a_canary_that_can_not_be_read_keeps_no_engine_from_its_requests(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, canary = house.go_live(), house.publish()
    house.canary(canary)
    house.reconcile()
    house.engine.restart()
    with monkeypatch.context() as patch:
        fail_to_read(patch, canary)
        with pytest.raises(AdapterUnreachable, match=f"Adapter {canary}"):
            house.reconcile()
        assert house.rollout.serving and house.rollout.loaded == {live}
        assert house.serving().canary == canary and "can't be read" in (house.rollout.problem or "")
    house.reconcile()
    assert house.rollout.loaded == {live, canary} and house.rollout.problem is None


def test_files_that_take_minutes_to_come_hold_up_neither_requests_nor_who_joins(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, name = house.go_live(), house.publish()
    house.promote(name)
    check, goes_on = house.registry.check, Event()

    def slow_check(asked: str) -> Any:
        assert asked != name or goes_on.wait(PATIENCE)
        return check(asked)

    monkeypatch.setattr(house.registry, "check", slow_check)

    async def body() -> None:
        settling = asyncio.create_task(house.rollout.settle())
        await house.until(lambda: name in house.replica._files._checks)
        user = asyncio.create_task(use(name))
        await asyncio.sleep(0)
        house.engine.restart()
        house.rollout.eject(house.replica, "a request broke off")
        await house.rollout.tend(house.replica)  # it holds what is live again, and gets requests
        assert house.rollout.serving == [house.replica] and house.rollout.loaded == {live}
        goes_on.set()
        await asyncio.gather(settling, user)
        assert house.serving().live == name

    async def use(name: str) -> None:
        async with house.replica.using(name):
            assert name in house.engine.held

    house.play(body())


def test_when_the_live_folder_breaks_the_one_before_takes_over(house: House) -> None:
    first, second = house.go_live(), house.go_live()
    house.break_folder(second)
    house.engine.restart()
    house.reconcile()
    assert (house.serving().live, house.row(second).state) == (first, "retired")
    assert "is missing" in house.row(second).reason
    assert any("can't be served any more" in reason for action, reason in house.events(first) if action == "live")
    house.break_folder(first)
    house.engine.restart()
    house.reconcile()
    assert (house.serving().live, house.row(first).state) == ("base", "retired")
    told = house.replacement()
    assert told is not None and told.startswith("base is live in place of v2 and v1. ")
    assert told.endswith("`hone adapters promote v2`.")


def test_an_adapter_whose_folder_is_put_back_can_be_promoted_again(house: House, tmp_path: Path) -> None:
    first, second = house.go_live(), house.go_live()
    folder, away = house.registry.folder / second, tmp_path / "away"
    folder.rename(away)
    house.engine.restart()
    house.start_service()
    house.reconcile()
    assert (house.serving().live, house.row(second).state) == (first, "retired")
    told = house.replacement()
    assert told is not None and "its folder is missing" in told and f"Its place is {folder}." in told

    house.promote(second)  # too early: it is checked again, and put aside again
    house.reconcile()
    assert (house.serving().live, house.serving().requested) == (first, None)
    assert house.events(second)[0][0] == "put aside" and house.replacement() == told

    away.rename(folder)
    house.promote(second)
    house.reconcile()
    assert (house.serving().live, house.row(second).state, house.replacement()) == (second, "live", None)


def test_a_canary_that_was_live_before_and_whose_folder_breaks_is_put_aside(house: House) -> None:
    before, live = house.go_live(), house.go_live()
    house.canary(before)
    house.reconcile()
    house.break_folder(before)
    house.engine.restart()
    house.reconcile()
    assert (house.serving().live, house.serving().canary) == (live, None)
    assert house.row(before).state == "retired" and "is missing" in house.row(before).reason
    assert house.replacement() is None  # nobody had to do without what is live
