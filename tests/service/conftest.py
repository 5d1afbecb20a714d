"""A running service with a fake engine, one for each test module: tests keep apart by the names they give."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings, load_settings
from service.store.queries import keys
from service.store.session import Store
from tests.service.fake_engine import FakeEngine
from tests.service.serving import serve


@dataclass
class Running:
    """`http` is a caller on this machine without a key; `operator` has one."""

    url: str
    settings: Settings
    store: Store
    engine: FakeEngine
    engine_url: str
    app: FastAPI
    http: httpx2.Client
    operator: httpx2.Client

    def get(self, path: str) -> httpx2.Response:
        return self.http.get(path)

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx2.Response:
        return self.http.post(path, json=body, headers=headers or {})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home: Path = tmp_path_factory.mktemp("home")
    overrides: dict[str, dict[str, Any]] = {
        "server": {"pages": False},
        "rollout": {"reconcile_seconds": 0.05},
        "engine": {"model": "/models/fake"},  # not on this machine, as with an engine elsewhere
    }
    settings = load_settings(home, overrides, environment={})
    store = Store.open(settings.store_url)
    with store.begin() as tx:
        key = keys.create_key(tx, "operator", "olga")
    engine = FakeEngine()
    with serve(engine.app) as engine_url:
        app = create_app(settings, store, [engine_url])
        with (
            serve(app) as url,
            httpx2.Client(base_url=url, timeout=30) as http,
            httpx2.Client(base_url=url, timeout=30, headers={"authorization": f"Bearer {key}"}) as operator,
        ):
            yield Running(url, settings, store, engine, engine_url, app, http, operator)
    store.close()
