"""Scores of stored replies, over the fake engine: who can not have one, and who leaves."""

import asyncio
from typing import Any

import httpx2
import pytest

from service.engine import Engine
from service.errors import EngineRefused
from tests.fixtures.waiting import until
from tests.service.chatting import ask
from tests.service.conftest import Running


def test_when_one_reply_can_not_be_scored_the_others_are_given_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "hone", "messages": [{"role": "user", "content": "hi"}], "n": 3}
    exchange = running.post("/v1/chat/completions", body).json()["id"]
    begun: list[int] = []
    given_up: list[int] = []

    async def score(engine: Engine, *arguments: Any) -> tuple[float, ...]:
        begun.append(1)
        try:
            if len(begun) == 3:
                raise EngineRefused("The engine does not like this.", 400)
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            given_up.append(1)
            raise
        return ()

    monkeypatch.setattr(Engine, "score", score)
    refused = running.post("/v1/score", {"exchange_id": exchange})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "engine_error")
    assert len(given_up) == 2


def test_who_asks_for_a_score_and_leaves_leaves_no_work_behind(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = running.post("/v1/chat/completions", ask()).json()["id"]
    under_way: list[int] = []

    async def score(engine: Engine, *arguments: Any) -> tuple[float, ...]:
        under_way.append(1)
        try:
            await asyncio.sleep(600)
        finally:
            under_way.pop()
        return ()

    monkeypatch.setattr(Engine, "score", score)
    with pytest.raises(httpx2.ReadTimeout):
        running.http.post("/v1/score", json={"exchange_id": exchange}, timeout=0.5)
    until(lambda: not under_way)
    scored = 'hone_requests_total{route="/v1/score",status="499"}'
    until(lambda: scored in running.get("/metrics").text)
