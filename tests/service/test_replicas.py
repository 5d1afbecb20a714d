"""A service over three engines: who is asked, who is left out and let in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2

from service.replicas import AWAY, CLEARLY_BUSIER
from tests.fixtures.waiting import PATIENCE, until
from tests.service.fleet import ENGINES, Fleet, ask, fleet_in, waiting
from tests.service.fleet import fleet as fleet
from tests.service.publishing import publish


def test_a_conversation_stays_at_one_engine_and_conversations_spread(fleet: Fleet) -> None:
    used = set()
    for number in range(30):
        before = fleet.asked()
        for _ in range(3):
            assert fleet.post("/v1/chat/completions", ask(f"talk-{number}")).status_code == 200
        grown = [after - was for after, was in zip(fleet.asked(), before, strict=True)]
        assert sorted(grown) == [0, 0, 3]
        used.add(grown.index(3))
    assert used == {0, 1, 2}


def test_a_new_conversation_goes_where_the_least_is_under_way(fleet: Fleet) -> None:
    async def story() -> None:
        async with waiting(fleet, [f"talk-{number}" for number in range(6)]):
            assert [engine.under_way for engine in fleet.engines] == [2, 2, 2]
            states = await asyncio.to_thread(fleet.replicas)
            assert [replica["under_way"] for replica in states] == [2, 2, 2]
            metrics = (await asyncio.to_thread(fleet.get, "/metrics")).text
            for power in fleet.powers:
                assert f'hone_replica_requests_under_way{{replica="{power.url}"}} 2.0' in metrics
                assert f'hone_replica_healthy{{replica="{power.url}"}} 1.0' in metrics
                assert f'hone_replica_adapters_loaded{{replica="{power.url}"}} 0.0' in metrics

    asyncio.run(story())


def test_a_conversation_moves_only_when_its_engine_is_clearly_busier(fleet: Fleet) -> None:
    async def story() -> None:
        async with waiting(fleet, ["talk"] * (CLEARLY_BUSIER + 1)):
            assert sorted(engine.under_way for engine in fleet.engines) == [0, 0, CLEARLY_BUSIER + 1]
            home = fleet.asked().index(CLEARLY_BUSIER + 1)
            answer = await asyncio.to_thread(fleet.post, "/v1/chat/completions", ask("talk"))
            assert answer.status_code == 200
            assert fleet.asked()[home] == CLEARLY_BUSIER + 1  # it went elsewhere

    asyncio.run(story())


def test_an_engine_that_dies_is_left_out_and_comes_back(fleet: Fleet) -> None:
    fleet.powers[1].off()
    until(lambda: fleet.healthy() == [True, False, True])
    until(
        lambda: "can't be reached" in (fleet.replicas()[1]["problem"] or "")
    )  # as the rollout finds, who looks closer
    health = fleet.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")  # chats are answered
    assert fleet.powers[1].url in health.json()["rollout"] and health.json()["problems"] == []
    assert f'hone_replica_healthy{{replica="{fleet.powers[1].url}"}} 0.0' in fleet.get("/metrics").text
    for number in range(6):
        assert fleet.post("/v1/chat/completions", ask(f"talk-{number}")).status_code == 200
    assert fleet.asked()[1] == 0
    fleet.powers[1].on()
    until(lambda: all(fleet.healthy()))
    assert fleet.get("/health").json().items() >= {"status": "ok", "rollout": "ok", "problems": []}.items()


def test_only_this_machine_and_operators_see_the_engines(fleet: Fleet) -> None:
    fleet.powers[0].off()
    until(lambda: not all(fleet.healthy()))
    proxied = {"x-forwarded-for": "203.0.113.7"}
    stranger = fleet.http.get("/health", headers=proxied)
    assert stranger.status_code == 200 and fleet.powers[0].url not in stranger.text
    assert stranger.json()["status"] == "degraded" and "problems" not in stranger.json()
    assert fleet.powers[0].url in fleet.operator.get("/health", headers=proxied).text


def test_an_engine_that_is_not_well_gets_no_requests(fleet: Fleet) -> None:
    fleet.engines[2].is_well = False
    until(lambda: fleet.healthy() == [True, True, False])
    until(lambda: "isn't well" in (fleet.replicas()[2]["problem"] or ""))  # as the rollout finds, who looks closer
    fleet.engines[2].is_well = True
    until(lambda: all(fleet.healthy()))


def test_when_all_are_away_it_is_503_and_when_to_come_back(fleet: Fleet) -> None:
    for power in fleet.powers:
        power.off()
    for stream in (True, False):
        answer = fleet.post("/v1/chat/completions", ask("talk", stream=stream))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["x-should-retry"] == "true"
        assert answer.json()["error"]["message"] == AWAY
    health = fleet.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")
    assert "not ready" in health.json()["engine"]
    assert all(health.json()["rollout"].count(power.url) == 1 for power in fleet.powers)  # where, for operators
    fleet.powers[0].on()
    assert fleet.post("/v1/chat/completions", ask("talk")).status_code == 200  # whoever asks needs not wait for a tick


def test_when_all_are_full_it_is_429_and_when_to_come_back(tmp_path: Path) -> None:
    with fleet_in(tmp_path / "home", max_requests=2) as fleet:

        async def story() -> None:
            async with waiting(fleet, [f"talk-{number}" for number in range(2 * ENGINES)]):
                for stream in (True, False):
                    answer = await asyncio.to_thread(fleet.post, "/v1/chat/completions", ask("one", stream=stream))
                    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
                    assert answer.json()["error"]["code"] == "engines_busy"
                    assert "engine.max_requests" in answer.json()["error"]["message"]

        asyncio.run(story())
        until(lambda: sum(replica["under_way"] for replica in fleet.replicas()) == 0)
        assert fleet.post("/v1/chat/completions", ask("one")).status_code == 200


def test_what_was_let_in_is_answered_though_the_others_are_full_when_its_engine_dies(tmp_path: Path) -> None:
    with fleet_in(tmp_path / "home", max_requests=2) as fleet:

        async def story() -> list[httpx2.Response]:
            async with httpx2.AsyncClient(base_url=fleet.url, timeout=PATIENCE) as http:
                talks = (ask(f"talk-{number}", "!patient") for number in range(2 * ENGINES))
                asked = [asyncio.create_task(http.post("/v1/chat/completions", json=talk)) for talk in talks]
                await asyncio.to_thread(until, lambda: fleet.are_at_work(2 * ENGINES))
                await asyncio.to_thread(fleet.powers[1].off)
                await asyncio.to_thread(until, lambda: fleet.engines[0].under_way + fleet.engines[2].under_way == 6)
                for engine in fleet.engines:
                    engine.patience.set()
                return await asyncio.gather(*asked)

        answers = asyncio.run(story())
        assert [answer.status_code for answer in answers] == [200] * 2 * ENGINES


def test_an_adapter_goes_live_on_all_or_on_none(fleet: Fleet, tmp_path: Path) -> None:
    name = fleet.go_live(tmp_path / "first")
    assert [replica["adapters"] for replica in fleet.replicas()] == [[name]] * ENGINES
    fleet.engines[1].logprob = -0.4  # it loads, and changes something else
    second = publish(fleet, tmp_path / "second")
    fleet.operator.post(f"/v1/adapters/{second}/promote", json={})
    until(lambda: "not every engine serves it" in fleet.get("/health").json()["rollout"])
    (problem,) = fleet.get("/health").json()["problems"]
    assert problem.startswith(f"{second} waits")
    assert fleet.powers[1].url in fleet.get("/health").json()["rollout"]
    serving = fleet.operator.get("/v1/serving").json()
    assert (serving["live"], serving["requested"]) == (name, second)
    history = fleet.operator.get(f"/v1/adapters/{second}").json()["history"]
    assert [event["reason"] for event in history if event["action"] == "waiting"]
    for number in range(6):
        answer = fleet.post("/v1/chat/completions", ask(f"talk-{number}")).json()
        assert answer["system_fingerprint"] == name


def test_an_engine_that_restarts_empty_never_answers_without_its_adapters(fleet: Fleet, tmp_path: Path) -> None:
    name = fleet.go_live(tmp_path / "source")
    for restart in range(6):
        fleet.engines[restart % ENGINES].adapters.clear()
        for number in range(6):
            answer = fleet.post("/v1/chat/completions", ask(f"talk-{restart}-{number}"))
            assert (answer.status_code, answer.json()["system_fingerprint"]) == (200, name)
    until(lambda: all(name in engine.adapters for engine in fleet.engines))
    until(lambda: [replica["adapters"] for replica in fleet.replicas()] == [[name]] * ENGINES)


def test_a_version_on_demand_is_loaded_where_it_is_asked_for(fleet: Fleet, tmp_path: Path) -> None:
    name = publish(fleet, tmp_path / "source")
    for number in range(6):
        answer = fleet.post("/v1/chat/completions", ask(f"talk-{number}", model=f"hone:{name}"))
        assert answer.json()["system_fingerprint"] == name
    assert sum(name in engine.adapters for engine in fleet.engines) == 1
