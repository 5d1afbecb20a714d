"""A service over three engines, over real sockets: who is asked, what is asked again, who is left out and let in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.replicas import AWAY, BROKE_OFF, CLEARLY_BUSIER, WENT_OVER_IT
from service.store.session import Store
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE, until
from tests.service.conftest import Running, service_over, settings_at
from tests.service.fake_engine import WORDS, FakeEngine
from tests.service.power import Power, powered
from tests.service.test_api_operator import publish

TEXT = "".join(WORDS)
ENGINES = 3


@dataclass
class Fleet(Running):
    """`engines` can be told to misbehave, `powers` kill them and start them again, in the same order."""

    engines: list[FakeEngine]
    powers: list[Power]

    def replicas(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/health").json()["replicas"]
        return found

    def healthy(self) -> list[bool]:
        return [replica["healthy"] for replica in self.replicas()]

    def asked(self) -> list[int]:
        """How many chats each engine was asked."""
        return [len(engine.bodies) for engine in self.engines]

    def are_at_work(self, requests: int) -> bool:
        return sum(engine.under_way for engine in self.engines) == requests

    def go_live(self, folder: Path) -> str:
        name = publish(self, folder)
        self.operator.post(f"/v1/adapters/{name}/promote", json={})
        until(lambda: self.operator.get("/v1/serving").json()["live"] == name)
        return name


@contextmanager
def fleet_in(home: Path, **engine: Any) -> Iterator[Fleet]:
    settings = settings_at(home, silence_seconds=0.2, **engine)
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store.open(settings.store_url)))
        engines = [FakeEngine() for _ in range(ENGINES)]
        powers = [stack.enter_context(powered(stack.enter_context(serve(one.app)))) for one in engines]
        service = stack.enter_context(service_over(settings, store, [power.url for power in powers]))
        fleet = Fleet(**vars(service), engine=engines[0], engine_url=powers[0].url, engines=engines, powers=powers)
        until(lambda: all(fleet.healthy()))
        yield fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path / "home") as running:
        yield running


def ask(conversation: str, said: str = "hi", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": said}]
    return {"model": "hone", "messages": messages, "hone": {"conversation_id": conversation}, **fields}


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@asynccontextmanager
async def waiting(fleet: Fleet, conversations: list[str]) -> AsyncIterator[None]:
    """Requests, one after the other, that the engines are at for as long as the block takes."""
    async with httpx2.AsyncClient(base_url=fleet.url, timeout=PATIENCE) as http:
        tasks = []
        try:
            for number, conversation in enumerate(conversations, 1):
                tasks.append(asyncio.create_task(http.post("/v1/chat/completions", json=ask(conversation, "!slow"))))
                await asyncio.to_thread(until, partial(fleet.are_at_work, number))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# -- who is asked -----------------------------------------------------------------------------------------------------


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


# -- what is asked again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "how", ["refuses connections", "answers 500", "answers 503", "breaks off", "falls silent", "is being stopped"]
)
def test_what_has_not_begun_is_asked_of_another_engine(fleet: Fleet, how: str, stream: bool) -> None:
    assert fleet.post("/v1/chat/completions", ask("talk")).status_code == 200
    home = fleet.asked().index(1)
    engine = fleet.engines[home]
    if how == "refuses connections":
        fleet.powers[home].off()
    elif how.startswith("answers"):
        engine.fails = int(how.split()[1])
    elif how == "breaks off":
        engine.dies_first = True
        stream = True
    elif how == "is being stopped":
        engine.is_stopping = True
    else:
        engine.is_silent = True
        engine.is_well = False
    for _ in range(3):
        answer = fleet.post("/v1/chat/completions", ask("talk", stream=stream))
        assert answer.status_code == 200, answer.text
        if stream:
            shown = events(answer.text)
            assert shown[-1] == "[DONE]" and not any("error" in event for event in shown[:-1])
            assert "".join(event["choices"][0]["delta"].get("content", "") for event in shown[:-1]) == TEXT
        else:
            assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert sum(fleet.asked()) - fleet.asked()[home] == 3


def retries(fleet: Fleet) -> float:
    counted = next(line for line in fleet.get("/metrics").text.splitlines() if line.startswith("hone_retries_total"))
    return float(counted.split()[1])


def test_a_retry_is_counted(fleet: Fleet) -> None:
    for engine in fleet.engines[:2]:
        engine.fails = 500
    for number in range(6):
        assert fleet.post("/v1/chat/completions", ask(f"talk-{number}")).status_code == 200
    assert retries(fleet) > 0


def test_what_every_engine_fails_at_is_tried_no_more_than_thrice(fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.fails = 500
    answer = fleet.post("/v1/chat/completions", ask("talk"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "out of order" in answer.json()["error"]["message"]
    assert fleet.asked() == [1, 1, 1] and retries(fleet) == 2
    assert all(fleet.healthy())  # they said that they are well


@pytest.mark.parametrize("stream", [True, False])
def test_what_an_engine_refuses_is_asked_of_no_other(fleet: Fleet, stream: bool) -> None:
    answer = fleet.post("/v1/chat/completions", ask("talk", "!refuse", stream=stream))
    assert answer.status_code == 400 and sum(fleet.asked()) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_what_an_engine_that_is_being_stopped_gives_up_is_asked_of_the_last_that_serves(
    fleet: Fleet, stream: bool
) -> None:
    """It says that it is well all the time, so it is let in again and again."""
    for engine in fleet.engines[:2]:
        engine.is_stopping = True
    for number in range(6):
        answer = fleet.post("/v1/chat/completions", ask(f"talk-{number}", stream=stream))
        assert answer.status_code == 200 and "abort" not in answer.text
        exchange = (events(answer.text)[0] if stream else answer.json())["id"]
        assert fleet.get(f"/v1/exchanges/{exchange}").json()["replies"][0]["finish_reason"] == "stop"


def test_a_whole_answer_that_is_given_up_everywhere_is_an_error_and_is_not_stored(fleet: Fleet) -> None:
    answer = fleet.post("/v1/chat/completions", ask("talk", "!abort"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["message"] == AWAY
    assert fleet.asked() == [1, 1, 1]


@pytest.mark.parametrize("how", ["breaks off", "is dead inside", "falls silent"])
@pytest.mark.parametrize("serving", [2, 3])
def test_a_request_that_two_engines_go_away_over_takes_no_more_and_is_not_to_be_repeated(
    fleet: Fleet, how: str, serving: int
) -> None:
    for power in fleet.powers[serving:]:
        power.off()
    until(lambda: sum(fleet.healthy()) == serving)
    for engine in fleet.engines:
        engine.dies_first = how == "breaks off"
        engine.fails = 500 if how == "is dead inside" else None
        engine.is_silent = how == "falls silent"
        engine.dies_over_it = how != "breaks off"
    answer = fleet.post("/v1/chat/completions", ask("talk", stream=True))
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
    assert answer.json()["error"]["message"] == WENT_OVER_IT and "retry-after" not in answer.headers
    assert sum(fleet.asked()) == 2


def test_a_request_that_the_only_engine_goes_away_over_may_be_repeated(fleet: Fleet) -> None:
    for power in fleet.powers[1:]:
        power.off()
    until(lambda: sum(fleet.healthy()) == 1)
    fleet.engines[0].dies_first = True
    answer = fleet.post("/v1/chat/completions", ask("talk", stream=True))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["message"] == AWAY


@pytest.mark.parametrize("said", ["!break", "!error", "!garbage", "!abort"])
def test_what_had_begun_ends_with_a_clear_error_event(fleet: Fleet, said: str) -> None:
    answer = fleet.post("/v1/chat/completions", ask("talk", said, stream=True))
    *shown, last = events(answer.text)
    assert answer.status_code == 200 and last["error"]["code"] == "engine_unavailable"
    assert said not in ("!break", "!abort") or last["error"]["message"] == BROKE_OFF
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in shown) == "".join(WORDS[:2])
    assert sum(fleet.asked()) == 1
    stored = fleet.get(f"/v1/exchanges/{shown[0]['id']}").json()["replies"][0]
    assert stored["text"] == "".join(WORDS[:2]) and stored["finish_reason"] is None


# -- who is left out and let in ---------------------------------------------------------------------------------------


def test_an_engine_that_dies_is_left_out_and_comes_back(fleet: Fleet) -> None:
    fleet.powers[1].off()
    until(lambda: fleet.healthy() == [True, False, True])
    until(
        lambda: "can't be reached" in (fleet.replicas()[1]["problem"] or "")
    )  # as the rollout finds, who looks closer
    health = fleet.get("/health")
    assert health.status_code == 200
    assert fleet.powers[1].url in health.json()["rollout"]
    assert f'hone_replica_healthy{{replica="{fleet.powers[1].url}"}} 0.0' in fleet.get("/metrics").text
    for number in range(6):
        assert fleet.post("/v1/chat/completions", ask(f"talk-{number}")).status_code == 200
    assert fleet.asked()[1] == 0
    fleet.powers[1].on()
    until(lambda: all(fleet.healthy()))
    assert fleet.get("/health").json()["rollout"] == "ok"


def test_only_this_machine_and_operators_see_the_engines(fleet: Fleet) -> None:
    fleet.powers[0].off()
    until(lambda: not all(fleet.healthy()))
    proxied = {"x-forwarded-for": "203.0.113.7"}
    stranger = fleet.http.get("/health", headers=proxied)
    assert stranger.status_code == 200 and fleet.powers[0].url not in stranger.text
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
    assert health.status_code == 503 and "not ready" in health.json()["engine"]
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


# -- under load -------------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """What one caller got: the status, the tokens, and how it ended."""

    status: int
    tokens: int
    end: Any


async def _listen(http: httpx2.AsyncClient, conversation: str) -> Heard:
    async with http.stream("POST", "/v1/chat/completions", json=ask(conversation, stream=True)) as answer:
        if answer.status_code != 200:
            return Heard(answer.status_code, 0, await answer.aread())
        shown = events((await answer.aread()).decode())
    tokens = sum(bool(event["choices"][0]["delta"].get("content")) for event in shown[:-1])
    return Heard(200, tokens, shown[-1])


@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_kill_of_one_of_three_under_load_loses_nothing_that_had_not_begun(
    fleet: Fleet, tmp_path: Path, with_adapter: bool
) -> None:
    live = fleet.go_live(tmp_path / "source") if with_adapter else "base"
    for engine in fleet.engines:
        engine.token_seconds = 0.02

    async def caller(http: httpx2.AsyncClient, number: int, heard: list[Heard]) -> None:
        for turn in range(6):
            heard.append(await _listen(http, f"talk-{number}-{turn}"))

    async def story() -> list[Heard]:
        heard: list[Heard] = []
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(base_url=fleet.url, timeout=PATIENCE, limits=limits) as http:
            callers = [asyncio.create_task(caller(http, number, heard)) for number in range(24)]
            for _ in range(2):
                count = len(heard)
                await asyncio.to_thread(until, lambda: len(heard) >= count + 20)  # noqa: B023  # awaited here
                await asyncio.to_thread(fleet.powers[1].off)
                fleet.engines[1].adapters.clear()
                await asyncio.to_thread(until, lambda: len(heard) >= count + 50)  # noqa: B023
                await asyncio.to_thread(fleet.powers[1].on)
            await asyncio.gather(*callers)
        return heard

    heard = asyncio.run(asyncio.wait_for(story(), 120))
    assert len(heard) == 24 * 6
    assert {one.status for one in heard} == {200}
    broken = [one for one in heard if one.end != "[DONE]"]
    assert all(one.end["error"]["code"] == "engine_unavailable" and one.tokens >= 1 for one in broken)
    assert all(one.tokens == len(WORDS) for one in heard if one.end == "[DONE]")
    until(lambda: all(fleet.healthy()))
    assert fleet.replicas()[1]["adapters"] == ([live] if with_adapter else [])
