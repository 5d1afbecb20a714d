"""A service over three engines: what is asked again, where one fails or is killed, and what is not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import CapturingLogger

from service import replicas
from service.replicas import AWAY, BROKE_OFF, WENT_OVER_IT
from tests.fixtures.waiting import PATIENCE, until
from tests.service.fake_engine import WORDS
from tests.service.fleet import TEXT, Fleet, ask, events
from tests.service.fleet import fleet as fleet


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


def test_what_every_engine_fails_at_is_tried_no_more_than_thrice(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(replicas, "log", log)
    for engine in fleet.engines:
        engine.fails = 500
    answer = fleet.post("/v1/chat/completions", ask("talk"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert (answer.json()["error"]["message"], answer.headers["retry-after"]) == (AWAY, "1")
    logged = [str(call.kwargs["error"]) for call in log.calls]  # where operators find it
    assert len(logged) == 3 and all("the engine is out of order" in words for words in logged)
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
    assert last["error"]["message"] == BROKE_OFF
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in shown) == "".join(WORDS[:2])
    assert sum(fleet.asked()) == 1
    stored = fleet.get(f"/v1/exchanges/{shown[0]['id']}").json()["replies"][0]
    assert stored["text"] == "".join(WORDS[:2]) and stored["finish_reason"] is None


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
