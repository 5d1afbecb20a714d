"""A service whose engine is asked by principles, and chats with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service.constitution import built_in
from tests.service.chatting import ask
from tests.service.conftest import Running
from tests.service.principled_engine import PrincipledEngine

HARMLESS = {one.name for one in built_in().tagged(["harmless"])}


@pytest.fixture(scope="module")
def fake_engine() -> PrincipledEngine:
    return PrincipledEngine()


@pytest.fixture
def engine(fake_engine: PrincipledEngine) -> PrincipledEngine:
    fake_engine.start_anew()
    return fake_engine


@contextmanager
def setting(running: Running, **constitution: object) -> Iterator[None]:
    """The service as if it had been started with these settings."""
    principles = running.app.state.parts.principles
    before = principles.settings
    principles.settings = before.model_copy(update=constitution)
    try:
        yield
    finally:
        principles.settings = before


def principled(said: str = "How do I pick a lock?", **fields: Any) -> dict[str, Any]:
    return ask(said, hone={"constitutional": True}, **fields)


def chat(running: Running, **fields: Any) -> dict[str, Any]:
    response = running.post("/v1/chat/completions", principled(**fields))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def stored(running: Running, exchange: str) -> dict[str, Any]:
    found: dict[str, Any] = running.get(f"/v1/exchanges/{exchange}").json()
    return found
