"""The start of `hone up`: what is waited for, and that people hear of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from service.commands.up import up
from service.settings import load_settings
from service.stack import Stack
from service.supervisor import Supervisor
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE, until
from tests.service.fake_engine import FakeEngine

READY = {"status": "ok", "engine": "ok", "pages": "ok"}
NO_PAGES = "The pages don't start (ImportError: no gradio); the log says more."


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
        return JSONResponse(state, 503 if state["status"] == "unavailable" else 200)

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
        state.update(READY, status="degraded", rollout="http://gpu:2 gets no requests: it is away")
        waiting.join(PATIENCE)
    assert ready == [True] and stack.pages_problem is None


@pytest.mark.parametrize("kind", ["embedded", "vllm"])
def test_the_learner_starts_once_vllm_has_measured_what_is_free_and_at_once_beside_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    started: list[str] = []
    monkeypatch.setattr(Supervisor, "start", lambda self, program: started.append(program.name))
    state: dict[str, Any] = READY | {"status": "unavailable", "engine": "not ready"}

    async def health(request: Request) -> JSONResponse:
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    engine = {"kind": kind, "vllm_python": sys.executable}
    stack = Stack(load_settings(tmp_path, {"server": {"port": 0}, "engine": engine}, environment={}))
    with serve(Starlette(routes=[Route("/health", health)])) as url:
        stack.url = url
        stack.start()
        assert started == ["engine", "service", *(["learner"] if kind == "embedded" else [])]
        stopping = threading.Event()
        waiting = threading.Thread(target=stack.wait_until_ready, args=(stopping,), daemon=True)
        waiting.start()
        assert not stopping.wait(0.3) and started[2:] == (["learner"] if kind == "embedded" else [])
        state.update(READY)
        waiting.join(PATIENCE)
    assert started == ["engine", "service", "learner"]
    stack.stop()


def test_a_start_ends_when_it_is_told_to_stop(stack: Stack) -> None:
    stopping = threading.Event()
    stopping.set()
    assert stack.wait_until_ready(stopping) is False


@pytest.mark.parametrize("kind", ["embedded", "vllm", "elsewhere"])
def test_the_start_says_what_it_found_of_a_vllm_and_what_nobody_can_see_of_one_that_others_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    engine = FakeEngine()
    engine.app.get("/version")(lambda: {"version": "0.32.0"})
    monkeypatch.setattr("service.commands.up._stop_on_signals", threading.Event)
    monkeypatch.setattr("service.logs.configure", lambda *_: None)
    monkeypatch.setenv("HONE_ENGINE__VLLM_PYTHON", sys.executable)
    for step in ("start", "wait_until_ready", "watch"):
        monkeypatch.setattr(Stack, step, lambda *_: True)
    with serve(engine.app) as url:
        monkeypatch.setattr("service.stack.free_port", lambda: int(url.rpartition(":")[2]))
        elsewhere = kind == "elsewhere"
        chosen: dict[str, Any] = {"engine_url": [url]} if elsewhere else {"engine": kind}
        up(tmp_path / "home", port=0, **chosen)
    *said, ready, link = capsys.readouterr().out.splitlines()
    assert ready.startswith("Hone is ready") and link.startswith("Operator page")
    assert [line.startswith(f"Engine {url} serves fake: vLLM 0.32.0") for line in said[:1]] == [True] * (
        kind != "embedded"
    )
    advice = [line for line in said if "doesn't tell everything. See that it was started with" in line]
    assert len(advice) == (1 if elsewhere else 0) and all("--max-loras 3 or more" in line for line in advice)


@contextmanager
def started(monkeypatch: pytest.MonkeyPatch, health: Callable[[Request], Awaitable[JSONResponse]]) -> Iterator[str]:
    """`hone up` takes a service that answers so for what it has started; its address."""
    whole = Stack.wait_until_ready

    def wait_until_ready(stack: Stack, stopping: threading.Event) -> bool:
        stack.url = url
        return whole(stack, stopping)

    monkeypatch.setattr("service.commands.up._stop_on_signals", threading.Event)
    monkeypatch.setattr("service.logs.configure", lambda *_: None)
    monkeypatch.setattr(Stack, "wait_until_ready", wait_until_ready)
    for step in ("start", "watch"):
        monkeypatch.setattr(Stack, step, lambda *_: True)
    with serve(Starlette(routes=[Route("/health", health)])) as url:
        yield url


def test_a_start_under_rules_that_can_not_be_used_says_so_and_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def health(request: Request) -> JSONResponse:
        return JSONResponse(READY | {"status": "unavailable", "constitution": "unusable"}, 503)

    monkeypatch.setenv("HONE_CONSTITUTION__TAGS", "kind")
    monkeypatch.setenv("HONE_CONSTITUTION__SERVE", "always")
    with started(monkeypatch, health) as url:
        up(tmp_path / "home", port=0)
        ready, warning, link = capsys.readouterr().out.splitlines()
        up(tmp_path / "home", port=0, as_json=True)
        told = json.loads(capsys.readouterr().out)["constitution_problem"]
    assert ready == f"Hone is ready: {url}" and link.startswith("Operator page") and told == warning
    assert warning.startswith("Every chat gets 503 constitution_unusable: c0: No principle has one of the tags kind.")
    assert "Set constitution.tags to some of harmless" in warning


@pytest.mark.parametrize("pages", ["ok", NO_PAGES])
def test_a_start_without_its_pages_says_so_in_place_of_being_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pages: str
) -> None:
    async def health(request: Request) -> JSONResponse:
        return JSONResponse(READY | {"pages": pages})

    with started(monkeypatch, health) as url:
        up(tmp_path / "home", port=0)
        plain, link = capsys.readouterr().out.splitlines()
        assert plain == (f"Hone is ready: {url}" if pages == "ok" else f"Hone answers at {url}/v1. {NO_PAGES}")
        assert link.startswith("Operator page")
        up(tmp_path / "home", port=0, as_json=True)
        told = json.loads(capsys.readouterr().out)["pages_problem"]
        assert told == (None if pages == "ok" else NO_PAGES)
