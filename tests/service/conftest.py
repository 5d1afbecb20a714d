"""A running service with a fake engine, one for each test module: tests keep apart by the names they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from service.adapters.registry import Registry
from service.app import create_app
from service.settings import Settings, load_settings
from service.store.queries import keys
from service.store.session import Store
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE
from tests.service.fake_engine import FakeEngine
from tests.service.house import House


@dataclass
class Service:
    """`http` is a caller on this machine without a key; `operator` has one."""

    url: str
    settings: Settings
    store: Store
    app: FastAPI
    http: httpx2.Client
    operator: httpx2.Client

    def get(self, path: str) -> httpx2.Response:
        return self.http.get(path)

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx2.Response:
        return self.http.post(path, json=body, headers=headers or {})


@dataclass
class Running(Service):
    """With the one engine that it asks."""

    engine: FakeEngine
    engine_url: str


def settings_at(home: Path, **engine: Any) -> Settings:
    """Without pages, with a rollout that looks often, and a base that is elsewhere, as with an engine elsewhere."""
    overrides: dict[str, dict[str, Any]] = {
        "server": {"pages": False},
        "rollout": {"reconcile_seconds": 0.05},
        "engine": {"model": "/models/fake"} | engine,
    }
    return load_settings(home, overrides, environment={})


@contextmanager
def service_over(settings: Settings, store: Store, engines: Sequence[str]) -> Iterator[Service]:
    """A service that asks these engines, and its callers."""
    with store.begin() as tx:
        key = keys.create_key(tx, "operator", "olga")
    app = create_app(settings, store, engines)
    with (
        serve(app) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE) as http,
        httpx2.Client(base_url=url, timeout=PATIENCE, headers={"authorization": f"Bearer {key}"}) as operator,
    ):
        yield Service(url, settings, store, app, http, operator)


@pytest.fixture(scope="module")
def fake_engine() -> FakeEngine:
    """What the module's service asks; a module that needs another kind has a fixture of its own by this name."""
    return FakeEngine()


@pytest.fixture(scope="module")
def running(fake_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = settings_at(tmp_path_factory.mktemp("home"))
    with (
        closing(Store.open(settings.store_url)) as store,
        serve(fake_engine.app) as engine_url,
        service_over(settings, store, [engine_url]) as service,
    ):
        yield Running(**vars(service), engine=fake_engine, engine_url=engine_url)


@pytest.fixture
def engine_count() -> int:
    """How many engines a house has; a module that needs several has a fixture of its own by this name."""
    return 1


@pytest.fixture
def house(registry: Registry, source: Path, engine_count: int) -> Iterator[House]:
    with House(registry, source, engine_count) as house:
        yield house
