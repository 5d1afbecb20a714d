"""The start of `hone up`: what is waited for, and that people hear of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from service.settings import load_settings
from service.stack import Stack
from tests.service.serving import serve, until

READY = {"status": "ok", "engine": "ok", "pages": "ready"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Nothing of it is started; an engine runs elsewhere."""
    settings = load_settings(tmp_path, {"server": {"port": 0}, "engine": {"urls": ["http://gpu:1"]}}, environment={})
    made = Stack(settings)
    yield made
    made.stop()


def test_a_start_has_as_long_as_it_needs_and_says_what_it_waits_for(
    stack: Stack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.stack.FIRST_TELL_SECONDS", 0.01)
    state: dict[str, Any] = READY | {"status": "unavailable", "engine": "not ready"}

    async def health(request: Request) -> JSONResponse:
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    with serve(Starlette(routes=[Route("/health", health)])) as url:
        stack.url = url
        ready: list[bool] = []
        waiting = threading.Thread(target=lambda: ready.append(stack.wait_until_ready(threading.Event())), daemon=True)
        waiting.start()
        log = stack.settings.home / "logs" / "service.log"
        until(lambda: f"Hone still waits for an engine at http://gpu:1: {log} says why." in caplog.text)
        state.update(store="The database can't be reached.")
        until(lambda: "Hone still waits for the store: The database can't be reached." in caplog.text)
        state.update(READY, pages="starting", store="ok")
        until(lambda: f"Hone still waits for the service: {log} says how far it is." in caplog.text)
        assert waiting.is_alive()
        state.update(READY)
        waiting.join(20)
    assert ready == [True]


def test_a_start_ends_when_it_is_told_to_stop(stack: Stack) -> None:
    stopping = threading.Event()
    stopping.set()
    assert stack.wait_until_ready(stopping) is False
