"""Whoever uses an adapter: it is loaded on demand, held until the reply ends, and what keeps it away is told."""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from pathlib import Path

import pytest

from service.adapters.place import Place
from service.auth import Caller
from service.chat.asking import Asking
from service.chat.completion import Chat
from service.chat.judges import Judges
from service.chat.principles import Principles
from service.chat.request import ChatRequest
from service.errors import AdapterBroken, EngineUnavailable, HoneError, NotFound
from service.metrics import Metrics
from service.replicas import Replicas
from service.settings import ChatSettings, ConstitutionSettings
from service.store.queries import conversations
from service.transactions import Transactions
from tests.service.house import House


def gateway(house: House) -> Replicas:
    """Who takes requests to the engines."""
    return Replicas(house.rollout, 8)  # over engines in memory, which only score


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
