"""A full disk, an engine that is away, a broken adapter: clear errors, and everything goes on afterwards."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from service.adapters.registry import Registry
from service.app import create_app
from service.settings import load_settings
from service.store.queries import adapters, serving
from service.store.session import Store
from service.store.tables import Serving
from service.transactions import Transactions
from tests.fixtures.adapters import provenance, write_base, write_source
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until
from tests.service.conftest import Running
from tests.service.fake_engine import FakeEngine
from tests.service.publishing import live, publish


def ask(said: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "hone", "messages": [{"role": "user", "content": said}], **fields}


@contextmanager
def full_disk(store: Store) -> Iterator[None]:
    """SQLite may not grow by another page: the error is the one of a full disk."""
    with store.begin() as tx:
        tx.execute(text("PRAGMA max_page_count = 1"))
    try:
        yield
    finally:
        with store.begin() as tx:
            tx.execute(text("PRAGMA max_page_count = 4294967294"))


def test_a_full_disk_is_a_clear_error_and_nothing_is_acknowledged_that_is_not_kept(running: Running) -> None:
    exchange = running.post("/v1/chat/completions", ask()).json()["id"]
    critique = {"kind": "critique", "exchange_id": exchange, "text": "x" * 90_000}
    large = ask("x" * 500_000)
    with full_disk(running.store):
        whole = running.post("/v1/chat/completions", large)
        streamed = running.post("/v1/chat/completions", large | {"stream": True})
        feedback = [running.post("/v1/feedback", critique) for _ in range(5)][-1]
    for response in (whole, feedback):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
        assert "full" in response.json()["error"]["message"]
    last = json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "store_unavailable"  # and no [DONE]: the reply was not kept
    assert running.post("/v1/feedback", critique).status_code == 201
    assert running.post("/v1/chat/completions", large).status_code == 200


def test_a_base_that_comes_after_the_service_has_started_is_held_against_adapters(tmp_path: Path) -> None:
    base = tmp_path / "fake"
    overrides: dict[str, dict[str, Any]] = {"server": {"pages": False}, "engine": {"model": str(base)}}
    settings = load_settings(tmp_path, overrides, environment={})
    store = Store.open(settings.store_url)

    def desired() -> Serving:
        with store.read() as tx:
            return serving.desired_state(tx)

    with (
        serve(FakeEngine().app) as engine,
        serve(create_app(settings, store, [engine])) as url,
        httpx2.Client(base_url=url) as http,
    ):
        until(lambda: http.get("/health").status_code == 200)
        write_base(base)
        name = Registry(store, settings.adapters_folder).publish(
            write_source(tmp_path / "source"), provenance(), {}, "Good."
        )
        with store.begin() as tx:
            serving.request_live(tx, name, "name:op", "")
        until(lambda: desired().requested is None)
    with store.read() as tx:
        row = adapters.get_adapter(tx, name)
    assert row is not None and "another base model (sprout, fingerprint" in row.reason
    store.close()


def test_without_an_engine_chats_are_told_to_come_back_and_everything_else_works(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"server": {"pages": False}}, environment={})
    store = Store.open(settings.store_url)
    with serve(create_app(settings, store, ["http://127.0.0.1:9"])) as url, httpx2.Client(base_url=url) as http:
        for stream in (False, True):
            response = http.post("/v1/chat/completions", json=ask(stream=stream))
            assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
            assert response.headers["retry-after"] == "1" and response.headers["x-should-retry"] == "true"
        health = http.get("/health")
        assert health.status_code == 503 and "not ready" in health.json()["engine"]
        assert http.get("/health/live").status_code == 200
        assert http.get("/v1/models").status_code == 200
        assert http.get("/v1/feedback").status_code == 200
    store.close()


def test_only_operators_hear_from_afar_why_the_store_fails(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "Can't write /srv/hone/hone.db: the disk is full."
    monkeypatch.setattr(Transactions, "failure", lambda self: why)
    assert running.http.get("/health").json()["store"] == why
    through_a_proxy = {"x-forwarded-for": "10.0.0.1"}
    stranger = running.http.get("/health", headers=through_a_proxy)
    assert (stranger.status_code, stranger.json()["store"]) == (503, "fails")
    assert running.operator.get("/health", headers=through_a_proxy).json()["store"] == why


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_adapter_is_never_served_and_the_one_before_takes_over(
    running: Running, tmp_path: Path, damage: str
) -> None:
    name = publish(running, tmp_path)
    running.operator.post(f"/v1/adapters/{name}/promote", json={})
    until(lambda: live(running) == name)
    weights = running.settings.adapters_folder / name / "adapter_model.safetensors"
    sound = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:100])
    running.engine.adapters.clear()  # the engine restarts, so the files are needed again
    until(lambda: live(running) == "base")
    answer = running.post("/v1/chat/completions", ask())
    assert (answer.status_code, answer.json()["system_fingerprint"]) == (200, "base")
    adapter = running.operator.get(f"/v1/adapters/{name}").json()
    assert adapter["state"] == "retired" and "adapter_model.safetensors" in adapter["reason"]
    again = f"`hone adapters promote {name}`"
    told = running.get("/health").json()["rollout"]
    assert f"adapter_model.safetensors is {damage}" in told and told.endswith(f"When that is mended: {again}.")
    weights.write_bytes(sound)
    told = running.get("/health").json()["rollout"]
    assert told == f"base is live in place of {name}. The files of {name} are there again. {again} brings it back."


def test_a_damaged_candidate_is_a_clear_error_for_who_asks_for_it(running: Running, tmp_path: Path) -> None:
    name = publish(running, tmp_path)
    (running.settings.adapters_folder / name / "adapter_config.json").unlink()
    response = running.post("/v1/chat/completions", ask(model=f"hone:{name}"))
    assert (response.status_code, response.json()["error"]["code"]) == (422, "adapter_broken")
    assert "adapter_config.json" in response.json()["error"]["message"]
