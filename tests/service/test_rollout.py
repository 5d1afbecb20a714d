"""The rollout: whatever restarts, breaks or lies, the engine ends in the desired state or the store says why not."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, closing, nullcontext, suppress
from pathlib import Path
from random import Random
from threading import Event, Thread, current_thread, main_thread
from typing import Any

import pytest

from service.adapters.engine import score_all
from service.adapters.fingerprint import LocalModel, base_fingerprint
from service.adapters.manifest import WEIGHTS, BaseModelIdentity, Probe
from service.adapters.place import Place
from service.adapters.proof import judge, kl_per_token
from service.adapters.registry import Registry
from service.auth import Caller
from service.chat.asking import Asking
from service.chat.completion import Chat
from service.chat.judges import Judges
from service.chat.principles import Principles
from service.chat.request import ChatRequest
from service.errors import (
    AdapterBroken,
    AdapterUnreachable,
    EngineAway,
    EngineRefused,
    EngineUnavailable,
    HoneError,
    ModelNotFound,
    NotFound,
)
from service.metrics import Metrics
from service.replicas import Replicas
from service.routing import resolve
from service.settings import ChatSettings, ConstitutionSettings
from service.store.queries import conversations
from service.store.tables import Serving
from service.transactions import Transactions
from tests.fixtures.adapters import HeldModel, provenance, write_base, write_source
from tests.fixtures.waiting import PATIENCE
from tests.service.house import House


@pytest.fixture
def house(registry: Registry, source: Path) -> Iterator[House]:
    with House(registry, source) as house:
        yield house


def gateway(house: House) -> Replicas:
    """Who takes requests to the engines."""
    return Replicas(house.replicas, house.rollout, 8)  # type: ignore[arg-type]  # engines in memory, which only score


def test_a_requested_adapter_is_loaded_proven_and_only_then_live(house: House) -> None:
    name = house.publish()
    house.reconcile()
    assert house.engine.held == {}
    house.promote(name)
    house.reconcile()
    desired = house.serving()
    assert (desired.live, desired.requested) == (name, None)
    assert house.engine.held == {name: str(house.registry.folder / name)}
    assert house.rollout.loaded == {name}
    assert house.row(name).reason.startswith("Better. Proved: engine and trainer agree within 0.0000 nats per token")


def test_a_second_reconciliation_changes_nothing(house: House) -> None:
    house.go_live()
    calls = list(house.engine.calls)
    house.reconcile()
    assert house.engine.calls == calls


def test_after_a_restart_of_the_engine_what_is_live_is_loaded_again(house: House) -> None:
    name = house.go_live()
    canary = house.publish()
    house.canary(canary)
    house.reconcile()
    house.engine.restart()
    house.reconcile()
    assert house.engine.held.keys() == {name, canary}
    assert house.rollout.loaded == {name, canary}


def test_after_a_restart_of_the_service_everything_is_proven_again_and_nothing_reloaded(house: House) -> None:
    name = house.go_live()
    house.start_service()
    assert house.rollout.loaded == frozenset()
    house.reconcile()
    assert house.rollout.loaded == {name}
    assert house.engine.loads() == [name]


def test_a_name_from_another_home_is_unloaded_before_ours_is_loaded(house: House) -> None:
    name = house.publish()
    house.engine.held[name] = "/another/home/adapters/v1"
    house.promote(name)
    house.reconcile()
    assert house.engine.held == {name: str(house.registry.folder / name)}
    assert house.serving().live == name


@pytest.mark.parametrize("are_true", [True, False])
def test_what_an_engine_still_holds_of_a_home_that_is_gone_is_loaded_anew(house: House, are_true: bool) -> None:
    """A wiped home's first adapter has name and place of the one before; `are_true`: what it says of itself is."""
    name, engine = house.publish(), house.engine
    engine.held[name] = str(house.registry.folder / name)
    engine.idle.add(name)  # it holds other weights
    whole = engine.load_adapter

    async def load_adapter(name: str, path: str) -> None:
        await whole(name, path)
        if are_true:
            engine.idle.discard(name)

    engine.load_adapter = load_adapter  # type: ignore[method-assign]
    house.promote(name)
    house.reconcile()
    loaded_anew = [("unload", name), ("load", name)]
    if are_true:
        assert (house.serving().live, engine.calls) == (name, loaded_anew)
    else:
        assert (house.row(name).state, engine.calls) == ("rejected", [*loaded_anew, ("unload", name)])


def test_what_an_engine_remembers_under_an_adapter_is_told_apart_by_the_manifest(house: House) -> None:
    name = house.go_live()
    assert house.engine.salts == {name: house.row(name).manifest_hash}


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


def test_rolling_back_needs_no_load(house: House) -> None:
    first, second = house.go_live(), house.go_live()
    assert house.engine.loads() == [first, second]
    house.roll_back()
    house.reconcile()
    assert house.serving().live == first
    assert house.engine.loads() == [first, second]
    house.roll_back("base")
    house.reconcile()
    assert house.serving().live == "base"


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


def test_any_published_version_is_loaded_on_demand_and_held_while_in_use(house: House) -> None:
    live = house.go_live()
    versions = [house.publish() for _ in range(4)]

    async def body() -> None:
        await house.rollout.reconcile()
        async with house.replica.using(versions[0]):
            assert house.engine.held.keys() == {live, versions[0]}
            for other in versions[1:]:
                with pytest.raises(EngineUnavailable, match=r"All 3 .* or kept for what operators ask for") as full:
                    async with house.replica.using(other):
                        pass
                assert full.value.retry_after == 1
            async with house.replica.using(versions[0]):  # who asks for the same takes no slot
                await house.rollout.reconcile()
            assert house.engine.held.keys() == {live, versions[0]}
        async with house.replica.using(versions[2]), house.replica.using(live), house.replica.using("base"):
            assert {live, versions[2]} <= house.engine.held.keys()

    house.play(body())
    assert house.engine.most_held <= 3


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


def test_requests_under_way_finish_on_the_adapter_they_began_with(house: House) -> None:
    first = house.go_live()
    house.start_service(keep_loaded=1)

    async def body() -> None:
        await house.rollout.reconcile()
        async with house.replica.using(first):
            for _ in range(3):
                name = house.publish()
                house.promote(name)
                await house.rollout.reconcile()
                assert house.serving().live == name
                assert first in house.engine.held
        await house.rollout.reconcile()
        assert first not in house.engine.held

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


def test_using_an_adapter_restores_it_after_a_restart_of_the_engine(house: House) -> None:
    name = house.go_live()
    house.engine.restart()

    async def body() -> None:
        async with house.replica.using(name):
            assert name not in house.engine.held  # nothing has told the service yet
        house.replica.eject("its requests fail")
        async with house.replica.using(name):
            assert name in house.engine.held

    house.play(body())


def test_using_what_can_not_be_served_says_why(house: House) -> None:
    name = house.publish()
    house.break_folder(name)

    async def use(what: str) -> None:
        async with house.replica.using(what):
            pass

    with pytest.raises(AdapterBroken, match="is missing"):
        house.play(use(name))
    with pytest.raises(NotFound):
        house.play(use("v99"))
    house.engine.away = True
    with pytest.raises(EngineUnavailable):
        house.play(use(house.publish()))
    assert house.row(name).state == "candidate"


@pytest.mark.parametrize("how", ["no folder", "nothing at the place", "not seen by the engine", "refused by it"])
def test_where_the_files_are_is_told_to_operators_alone(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("service.adapters.place.PAUSE_SECONDS", 0.0)
    house.reconcile()
    name = house.publish()
    folder = house.registry.folder / name
    if how in ("no folder", "nothing at the place"):
        shutil.rmtree(folder)
    else:
        house.engine.refuses[name] = (404 if how.startswith("not seen") else 400, f"No adapter found for {folder}")
    if how == "nothing at the place":
        house.registry.shared = Place(f"file://{tmp_path}/shared")

    async def begin(engine: object) -> None:
        pytest.fail("it is not loaded")

    async def ask() -> None:
        async with gateway(house).answering(name, "talk", begin):
            pass

    with pytest.raises(HoneError) as told:
        house.play(ask())
    assert told.value.status in (422, 503) and str(tmp_path) not in str(told.value)
    house.promote(name)
    with suppress(HoneError):
        house.reconcile()
    assert str(tmp_path) in f"{house.row(name).reason} {house.rollout.problem}"


@pytest.mark.parametrize("what", ["service", "engine"])
def test_a_conversation_keeps_the_canary_that_it_began_with_when_something_restarts(house: House, what: str) -> None:
    """Who asks before the engine serves again has to wait for it, and is routed only then."""
    live, canary = house.go_live(), house.publish()
    house.canary(canary)
    house.reconcile()
    with house.registry.store.begin() as tx:
        conversations.remember_conversation(tx, "talk", "name:ann", canary)
    if what == "service":
        house.start_service()
    else:
        house.engine.restart()
        house.rollout.eject(house.replica, "it can't be reached")
    body = {"model": "hone", "messages": [{"role": "user", "content": "hi"}], "hone": {"conversation_id": "talk"}}
    request, ann = ChatRequest.model_validate(body), Caller("name:ann", "user")

    async def ask(chat: Chat) -> None:
        turn = await chat.begin(request, ann)
        assert (turn.route.adapter, turn.route.is_remembered) == (canary, True)

    assert house.rollout.loaded == frozenset()
    with closing(Transactions(house.registry.store)) as transactions:
        registry = house.registry
        asking, principles = Asking(gateway(house), house.rollout), Principles(ConstitutionSettings(), transactions)
        parts = house.rollout, registry.base, Judges(registry), principles, transactions, Metrics()
        house.play(ask(Chat(ChatSettings(), asking, *parts)))
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


def test_another_service_at_the_same_engine_and_store_is_no_trouble(house: House) -> None:
    one = house.rollout
    other = house.start_service()
    name = house.publish()
    house.promote(name)

    async def both() -> None:
        await asyncio.gather(one.reconcile(), other.reconcile())
        await asyncio.gather(one.reconcile(), other.reconcile())

    house.play(both())
    assert house.serving().live == name
    assert house.row(name).state == "live"
    assert one.loaded == other.loaded == {name}


_PROBES = (
    Probe(prompt_token_ids=(1,), token_ids=(2, 3), logprobs=(-1.0, -2.0), base_logprobs=(-1.5, -2.5)),
    Probe(prompt_token_ids=(1,), token_ids=(4,), logprobs=(-3.0,), base_logprobs=(-3.5,)),
)
_TRAINED, _BASE = ((-1.0, -2.0), (-3.0,)), ((-1.5, -2.5), (-3.5,))


def _shifted(logprobs: tuple[tuple[float, ...], ...], by: float) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(value + by for value in reply) for reply in logprobs)


@pytest.mark.parametrize(
    ("adapter", "base", "others", "served"),
    [
        (_TRAINED, _BASE, {}, True),
        (_shifted(_TRAINED, 0.04), _shifted(_BASE, 0.04), {}, True),
        (_shifted(_TRAINED, 0.06), _BASE, {}, False),  # too far from the trainer
        (_TRAINED, _shifted(_BASE, 0.06), {}, False),  # another base
        (_shifted(_TRAINED, 0.02), _BASE, {"v1": _shifted(_TRAINED, 0.02)}, False),  # it is v1 that answers
        (_shifted(_TRAINED, 0.002), _BASE, {"v1": _shifted(_TRAINED, 0.02)}, True),
        (_TRAINED, _BASE, {"v1": _TRAINED}, True),  # a twin of v1: nothing to tell apart
        (_shifted(_TRAINED, float("nan")), _BASE, {}, False),
        (_TRAINED, _shifted(_BASE, float("nan")), {}, False),
    ],
)
def test_the_judge_wants_the_trainers_numbers_and_nobody_elses(
    adapter: Any, base: Any, others: Any, served: bool
) -> None:
    assert judge(_PROBES, adapter, base, others, tolerance=0.05).served is served


def test_what_is_as_good_as_never_said_is_not_held_against_an_engine_but_saying_it_is() -> None:
    """A correction that the base would never give: -15 or -15.3 is the same, and -7 is not."""
    [probe] = _PROBES[:1]
    never = [-15.0] * len(probe.token_ids)
    corrected = (probe.model_copy(update={"base_logprobs": never}),)
    adapter = [probe.logprobs]
    assert judge(corrected, adapter, [[value - 0.3 for value in never]], {}, tolerance=0.05).served
    another = judge(corrected, adapter, [[-7.0] * len(never)], {}, tolerance=0.05)
    assert not another.served and another.engine_at_fault
    assert not judge(corrected, [never], [never], {}, tolerance=0.05).served


def test_what_is_never_said_does_not_hide_that_the_base_answers() -> None:
    """Four tokens of -15 that the engine takes for -14 are no measure of how far off it is on the others."""
    base = [-2.0] * 96 + [-15.0] * 4
    trained = [value + (0.04 if place % 2 else -0.04) for place, value in enumerate(base)]
    probe = Probe(prompt_token_ids=(1,), token_ids=range(100), logprobs=trained, base_logprobs=base)
    engine_base = [[-2.0] * 96 + [-14.0] * 4]
    verdict = judge((probe,), engine_base, engine_base, {}, tolerance=0.05)
    assert not verdict.served and "answers like base" in verdict.words


def test_the_kl_of_trainer_to_engine_is_estimated_token_by_token() -> None:
    """By hand, with two tokens: the engine gives half, and twice, the trainer's probability; r - 1 - ln r of each."""
    trainer, engine = [[-1.0], [-2.0]], [[-1.0 - 0.693147], [-2.0 + 0.693147]]
    assert kl_per_token(trainer, engine) == pytest.approx(((0.5 - 1 + 0.693147) + (2 - 1 - 0.693147)) / 2, abs=1e-6)
    assert kl_per_token(trainer, trainer) == 0
    assert "KL of trainer to engine: 0.0e+00 nats" in judge(_PROBES, _TRAINED, _BASE, {}, tolerance=0.05).words


def test_noise_between_engine_and_trainer_is_not_taken_for_an_adapter_that_does_nothing() -> None:
    """Trained hardly at all, on an engine that differs from the trainer by as much: there is nothing to tell apart."""
    hardly = tuple(p.model_copy(update={"base_logprobs": tuple(v - 0.004 for v in p.logprobs)}) for p in _PROBES)
    assert judge(hardly, _shifted(_TRAINED, 0.003), _shifted(_TRAINED, -0.001), {}, tolerance=0.05).served


@pytest.mark.parametrize("answers", ["the adapter", "base", "v1"])
def test_in_bfloat16_the_direction_tells_what_answers_where_the_gap_does_not(answers: str) -> None:
    """Errors of 0.025 a token, an adapter that moves 0.04, and one before it that moved 0.04 otherwise."""
    rng = Random(0)

    def draw(size: float) -> list[float]:
        return [rng.gauss(0.0, size) for _ in range(200)]

    def off(values: Sequence[float]) -> tuple[tuple[float, ...]]:
        return (tuple(value + error for value, error in zip(values, draw(0.025), strict=True)),)

    base = [-2.0 + value for value in draw(0.3)]
    trained, before = ([b + value for b, value in zip(base, draw(0.04), strict=True)] for _ in range(2))
    probe = Probe(prompt_token_ids=(1,), token_ids=range(200), logprobs=trained, base_logprobs=base)
    engine_base, engine_v1 = off(base), off(before)
    found = {"the adapter": off(trained), "base": engine_base, "v1": engine_v1}[answers]
    verdict = judge((probe,), found, engine_base, {"v1": engine_v1}, tolerance=0.05)
    assert verdict.served is (answers == "the adapter"), verdict.words
    assert answers == "the adapter" or f"answers like {answers}" in verdict.words


def test_what_can_not_be_told_apart_is_not_said_to_be_proved() -> None:
    twin = judge(_PROBES, _TRAINED, _BASE, {"v1": _TRAINED}, tolerance=0.05)
    assert twin.words.startswith("Proved: engine") and "can't be told from v1." in twin.words
    idle = tuple(p.model_copy(update={"base_logprobs": p.logprobs}) for p in _PROBES)
    vain = judge(idle, _TRAINED, _TRAINED, {}, tolerance=0.05)
    assert vain.served and vain.words.startswith("Engine and trainer agree")
    assert "it can't be told from base." in vain.words


def test_adapters_of_all_kinds_of_sources_go_live_one_after_the_other(house: House, tmp_path: Path) -> None:
    for seed in range(3):
        house.source = write_source(tmp_path / f"source {seed}", seed=seed)
        house.go_live(gain=0.1 * (seed + 1))
    assert [house.row(f"v{number}").state for number in (1, 2, 3)] == ["retired", "retired", "live"]
