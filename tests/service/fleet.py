"""A service over three engines, over real sockets, which can be killed and started again."""

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

from service.store.session import Store
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE, until
from tests.service.conftest import Running, service_over, settings_at
from tests.service.fake_engine import WORDS, FakeEngine
from tests.service.power import Power, powered
from tests.service.publishing import publish

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
