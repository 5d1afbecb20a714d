"""The whole API over each database: what it takes, what it refuses, and what happens at the same moment."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.adapters.registry import Registry
from service.settings import Settings
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until
from tests.service.conftest import service_over, settings_at
from tests.service.fake_engine import FakeEngine

LONGEST = "ä" * 128


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_at(tmp_path)


@pytest.fixture
def http(store: Store, settings: Settings) -> Iterator[httpx2.Client]:
    """An operator, over a service of its own."""
    with serve(FakeEngine().app) as engine, service_over(settings, store, [engine]) as service:
        yield service.operator


def ask(conversation: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "héllo ☃ 🙂"}]
    return {"model": "hone", "messages": messages, "hone": {"conversation_id": conversation}, **fields}


def test_the_longest_names_and_the_largest_numbers_are_kept(http: httpx2.Client) -> None:
    http.headers["authorization"] = "Bearer none"
    answer = http.post("/v1/chat/completions", json=ask("c" * 128, user=LONGEST, seed=2**63 - 1, n=2))
    assert answer.status_code == 200, answer.text
    thumb = {"kind": "thumb", "good": True, "exchange_id": answer.json()["id"], "user": LONGEST}
    headers = {b"idempotency-key": ("é" * 127).encode()}
    first, again = (http.post("/v1/feedback", json=thumb, headers=headers) for _ in range(2))
    assert first.status_code == 201 and first.json() == again.json()


def test_repeats_and_turns_at_the_same_moment_are_taken_one_after_another(http: httpx2.Client) -> None:
    def turn(number: int) -> int:
        return http.post("/v1/chat/completions", json=ask(f"talk-{number % 2}", stream=number % 3 == 0)).status_code

    exchange = http.post("/v1/chat/completions", json=ask("talk-0", n=2)).json()["id"]
    a, b = ({"exchange_id": exchange, "index": index} for index in (0, 1))
    judgement = {"kind": "comparison", "a": a, "b": b, "verdict": "tie"}

    def send(_number: int) -> str:
        answer = http.post("/v1/feedback", json=judgement, headers={"idempotency-key": "once"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        turns, sent = pool.map(turn, range(24)), pool.map(send, range(16))
        assert set(turns) == {200} and len(set(sent)) == 1
    assert http.get("/v1/feedback/stats").json()["total"] == 1


def test_odd_names_are_not_found_and_odd_cursors_are_refused(http: httpx2.Client) -> None:
    for odd in ("%00", "a%00b", "%ED%A0%80", "'", "x" * 3000):
        for path in ("/v1/exchanges", "/v1/feedback", "/v1/runs", "/v1/adapters", "/v1/models"):
            assert http.get(f"{path}/{odd}").status_code == 404, (path, odd)
        for path in ("/v1/feedback", "/v1/runs"):
            assert http.get(f"{path}?after={odd}").status_code == 400, (path, odd)


def test_an_adapter_goes_live_whatever_its_report_holds(
    http: httpx2.Client, store: Store, settings: Settings, tmp_path: Path
) -> None:
    probe = provenance().probes[0].model_copy(update={"logprobs": (-0.25,) * 3, "base_logprobs": (-0.5,) * 3})
    made, report = provenance().model_copy(update={"probes": (probe,)}), {"fluency": float("nan"), "won": 0.5}
    name = Registry(store, settings.adapters_folder).publish(write_source(tmp_path / "source"), made, report, "Good.")
    assert http.post(f"/v1/adapters/{name}/promote", json={}).status_code == 202
    until(lambda: http.get("/v1/serving").json()["live"] == name)
    assert http.get(f"/v1/adapters/{name}").json()["report"] == {"fluency": None, "won": 0.5}
