"""The rollout over several engines: two phases, one flip, and nobody gets requests before it holds what it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.adapters.engine import EngineBrokeOff, EngineFacts
from service.adapters.registry import Registry
from service.adapters.rollout import Rollout
from service.errors import EngineAway, EngineUnavailable, HoneError
from tests.fixtures.adapters import MemoryEngine
from tests.service.house import House


@pytest.fixture
def house(registry: Registry, source: Path) -> Iterator[House]:
    with House(registry, source, engines=3) as house:
        yield house


def serving(rollout: Rollout) -> set[str]:
    return {replica.url for replica in rollout.serving}


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
    assert serving(house.rollout) == {"memory-0", "memory-1", "memory-2"}  # all serve what is live
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


def test_an_engine_that_is_away_holds_up_no_promotion_and_gets_the_adapter_before_any_request(house: House) -> None:
    house.go_live()
    house.engines[2].away = True
    name = house.publish()
    house.promote(name)
    with pytest.raises(EngineUnavailable, match="can't be reached"):
        house.reconcile()
    assert house.serving().live == name
    assert serving(house.rollout) == {"memory-0", "memory-1"}
    assert "memory-2 gets no requests: The engine can't be reached" in (house.rollout.problem or "")
    house.engines[2].restart()
    house.engines[2].away = False
    house.reconcile()
    assert serving(house.rollout) == {"memory-0", "memory-1", "memory-2"}
    assert name in house.replicas[2].loaded and house.rollout.problem is None


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
    assert serving(house.rollout) == {"memory-0", "memory-2"}


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
    assert (tries(house, name), len(serving(house.rollout)), set(house.rollout.loaded)) == (1, 2, {live})
    other = next(engine for engine in house.engines if not engine.away)
    other.away = True  # for reasons of its own
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="v2 waits for more engines"):
            house.reconcile()
    assert (tries(house, name), len(serving(house.rollout))) == (1, 1)
    other.away = False
    for _ in range(3):
        with suppress(EngineUnavailable):
            house.reconcile()
    assert tries(house, name) == 2
    desired = house.serving()
    assert (desired.live, desired.requested, desired.canary, house.row(name).state) == (live, None, None, "candidate")
    assert "Engines went away over v2" in house.row(name).reason and len(serving(house.rollout)) == 1
    for engine in house.engines:
        engine.away = False
    house.reconcile()
    assert len(serving(house.rollout)) == 3 and house.rollout.loaded == {live}


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
    assert (tries(house, canary), len(serving(house.rollout)), set(house.rollout.loaded)) == (2, 1, {live})
    assert house.serving().canary is None and house.row(canary).state == "candidate"


def test_one_engine_that_goes_away_over_what_its_fellows_serve_is_its_own_affair(house: House) -> None:
    house.go_live()
    name = house.publish()
    dies_over(house.engines[1], name)
    house.promote(name)
    house.reconcile()
    assert house.serving().live == name and serving(house.rollout) == {"memory-0", "memory-2"}


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
    assert (house.serving().live, house.row(live).state, serving(house.rollout)) == (live, "live", set())
    late.away = False
    with pytest.raises(HoneError):
        house.reconcile()
    assert (house.serving().live, serving(house.rollout)) == (live, {"memory-1"})

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
    assert serving(house.rollout) == {"memory-1", "memory-2"}
    assert house.rollout.loaded == {name}


def test_an_engine_of_another_base_gets_no_requests(house: House) -> None:
    late = house.engines[2]
    late.base, late.away = "another", True
    with pytest.raises(EngineUnavailable):
        house.reconcile()  # who comes first says which base is served
    late.away = False
    with pytest.raises(EngineUnavailable, match=r"It serves another, and memory-[01] serves sprout"):
        house.reconcile()
    assert serving(house.rollout) == {"memory-0", "memory-1"}


def test_a_canary_waits_until_every_engine_serves_it(house: House) -> None:
    live, canary = house.go_live(), house.publish()
    house.engines[2].idle.add(canary)
    house.canary(canary)
    with pytest.raises(EngineUnavailable, match="memory-2"):
        house.reconcile()
    assert house.rollout.loaded == {live} and house.row(canary).state == "canary"
    assert len(serving(house.rollout)) == 3


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
    assert serving(house.rollout) == {engine.url for engine in house.engines if not engine.away}
    assert house.serving().live == live and house.rollout.loaded == ({live} if is_live_served else set())
    assert canary in (house.rollout.problem or "") and house.serving().canary == canary


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
        await house.until(lambda: serving(house.rollout) == {"memory-1", "memory-2"})
        house.engines[1].restart()
        house.rollout.eject(house.replicas[1], "a request broke off")
        await house.until(lambda: len(house.rollout.serving) == 2 and all_held(1, 2))

    def all_held(*numbers: int) -> bool:
        return all(name in house.engines[number].held for number in numbers)

    house.run(body)


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


# -- vLLM's slots -----------------------------------------------------------------------------------------------------


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


def test_a_name_is_never_loaded_twice_over_another_path(house: House) -> None:
    """vLLM's prefix cache knows an adapter by name and path: in place, it would serve what it computed before."""
    name = house.publish()
    for engine in house.engines:
        engine.held[name] = "/another/home/adapters/v1"
    house.promote(name)
    house.reconcile()
    assert [engine.calls for engine in house.engines] == [[("unload", name), ("load", name)]] * 3
    assert house.serving().live == name and all_hold(house, name)
