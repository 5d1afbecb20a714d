"""Operator routes: adapters, runs and serving, over a real registry and the fake engine."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.adapters.registry import Registry
from service.doctor import examine
from service.engine import Engine
from service.errors import EngineRefused
from service.store.queries import adapters, runs
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.waiting import until
from tests.service.conftest import Running

OPERATIONS = [
    ("GET", "/v1/adapters"),
    ("GET", "/v1/adapters/v1"),
    ("POST", "/v1/adapters/v1/promote"),
    ("POST", "/v1/adapters/v1/reject"),
    ("POST", "/v1/adapters/v1/canary"),
    ("DELETE", "/v1/adapters/canary"),
    ("POST", "/v1/adapters/rollback"),
    ("GET", "/v1/runs"),
    ("POST", "/v1/runs"),
    ("GET", "/v1/runs/run-1"),
    ("POST", "/v1/runs/run-1/cancel"),
    ("GET", "/v1/runs/run-1/metrics"),
    ("GET", "/v1/runs/run-1/curves.png"),
    ("GET", "/v1/serving"),
    ("GET", "/v1/feedback/stats"),
]


def publish(running: Running, folder: Path, gain: float = 0.25) -> str:
    """A candidate that the fake engine serves as it was trained: half the base's log-probability (see fake_engine)."""
    probe = provenance().probes[0].model_copy(update={"logprobs": (-gain,) * 3, "base_logprobs": (-0.5,) * 3})
    made = provenance().model_copy(update={"probes": (probe,)})
    return Registry(running.store, running.settings.adapters_folder).publish(
        write_source(folder), made, {"fluency": 0.0}, "It passed."
    )


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_operator_actions_are_refused_to_users(running: Running, method: str, path: str) -> None:
    session = running.post("/v1/sessions", {}).json()["token"]
    for headers in ({}, {"x-hone-user": "olga"}, {"authorization": f"Bearer {session}"}):
        response = running.http.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


def ask(running: Running, model: str = "hone", conversation: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    if conversation:
        body["hone"] = {"conversation_id": conversation}
    answer: dict[str, Any] = running.post("/v1/chat/completions", body).json()
    return answer


def live(running: Running) -> str:
    return str(running.operator.get("/v1/serving").json()["live"])


def test_an_adapter_is_promoted_served_under_its_names_and_rolled_back(running: Running, tmp_path: Path) -> None:
    name = publish(running, tmp_path)
    assert ask(running, f"hone:{name}")["system_fingerprint"] == name  # any published version, on demand
    assert ask(running)["system_fingerprint"] == "base"
    promoted = running.operator.post(f"/v1/adapters/{name}/promote", json={"reason": "It is better."})
    assert promoted.status_code == 202
    until(lambda: live(running) == name)
    answer = ask(running)
    assert answer["system_fingerprint"] == name and answer["model"] == f"hone:{name}"
    assert ask(running, "hone:base")["system_fingerprint"] == "base"
    models = running.get("/v1/models").json()["data"]
    assert f"hone:{name}" in {model["id"] for model in models} and models[0]["max_model_len"] > 0
    seen = running.operator.get(f"/v1/adapters/{name}").json()
    assert (seen["state"], seen["loaded"], seen["report"]) == ("live", True, {"fluency": 0.0})
    assert {"requested", "live"} <= {event["action"] for event in seen["history"]}
    assert seen["history"][-1]["action"] == "published"

    scored = running.post("/v1/score", {"exchange_id": answer["id"], "model": "hone:base"}).json()
    assert scored == {"model": "hone:base", "adapter": "base", "token_logprobs": [[-0.5] * 6]}

    assert running.operator.post("/v1/adapters/rollback", json={}).status_code == 202
    until(lambda: live(running) == "base")
    assert ask(running)["system_fingerprint"] == "base"


def test_an_adapter_that_broke_on_the_disk_is_not_promoted_though_the_engine_still_holds_it(
    running: Running, tmp_path: Path
) -> None:
    name = publish(running, tmp_path)
    assert ask(running, f"hone:{name}")["system_fingerprint"] == name
    weights = running.settings.adapters_folder / name / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-8])
    for wish, body in (("promote", {}), ("canary", {"share": 0.5})):
        refused = running.operator.post(f"/v1/adapters/{name}/{wish}", json=body)
        assert refused.status_code >= 400 and name in refused.json()["error"]["message"]
    serving = running.operator.get("/v1/serving").json()
    assert (serving["live"], serving["requested"], serving["canary"]) == ("base", None, None)


def test_the_list_of_adapters_has_the_figures_that_pages_show_of_all_and_one_alone_its_whole_report(
    running: Running, tmp_path: Path
) -> None:
    told = {"share_won": {"value": 0.75, "low": 0.5, "high": 0.9, "decided": 40, "ties": 2}, "pairs": 12}
    rest = {"fluency": 0.0, "gates": [{"name": "fluent", "passed": True, "reason": "0.1"}], "samples": ["Yes."] * 99}
    registry = Registry(running.store, running.settings.adapters_folder)
    name = registry.publish(write_source(tmp_path), provenance(), told | rest, "It passed.")
    listed = {one["name"]: one for one in running.operator.get("/v1/adapters").json()}
    whole = running.operator.get(f"/v1/adapters/{name}").json()
    assert (listed[name]["report"], whole["report"]) == (told, told | rest)
    assert listed[name] == whole | {"report": told, "history": []}


@pytest.mark.parametrize("damage", ["its folder is missing", "is truncated", "was changed after it was published"])
@pytest.mark.parametrize("named", [True, False])
def test_nobody_is_rolled_back_to_what_broke_on_the_disk_and_what_is_live_stays_so(
    running: Running, tmp_path: Path, damage: str, named: bool
) -> None:
    before, name = publish(running, tmp_path / "before"), publish(running, tmp_path / "after")
    running.operator.post(f"/v1/adapters/{before}/promote", json={})
    until(lambda: live(running) == before)
    running.operator.post(f"/v1/adapters/{name}/promote", json={})
    until(lambda: live(running) == name)
    folder = running.settings.adapters_folder / before
    weights = folder / "adapter_model.safetensors"
    weights.chmod(0o644)
    if damage == "its folder is missing":
        folder.rename(tmp_path / "away")
    elif damage == "is truncated":
        weights.write_bytes(weights.read_bytes()[:-8])
    else:
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    refused = running.operator.post("/v1/adapters/rollback", json={"to": before} if named else {})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "adapter_broken")
    assert before in error["message"] and damage in error["message"]
    assert error["message"].endswith(f"Until then {name} stays live; or roll back to another version, or to base.")
    serving = running.operator.get("/v1/serving").json()
    assert (serving["live"], serving["requested"]) == (name, None)
    assert running.operator.get(f"/v1/adapters/{before}").json()["history"][0]["action"] == "retired"
    running.operator.post("/v1/adapters/rollback", json={"to": "base"})
    until(lambda: live(running) == "base")


def test_the_base_is_not_promoted_but_rolled_back_to(running: Running, tmp_path: Path) -> None:
    name = publish(running, tmp_path)
    running.operator.post(f"/v1/adapters/{name}/promote", json={})
    until(lambda: live(running) == name)
    refused = running.operator.post("/v1/adapters/base/promote", json={})
    assert refused.status_code == 404 and "/v1/adapters/rollback" in refused.json()["error"]["message"]
    assert running.operator.get("/v1/serving").json()["requested"] is None and live(running) == name
    running.operator.post("/v1/adapters/rollback", json={"to": "base"})
    until(lambda: live(running) == "base")


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
    exchange = ask(running)["id"]
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


def test_an_adapter_that_changes_nothing_is_rejected_with_the_reason(running: Running, tmp_path: Path) -> None:
    name = publish(running, tmp_path, gain=3.0)
    running.operator.post(f"/v1/adapters/{name}/promote", json={})
    until(lambda: running.operator.get(f"/v1/adapters/{name}").json()["state"] == "rejected")
    assert "isn't served as it was trained" in running.operator.get(f"/v1/adapters/{name}").json()["reason"]
    assert ask(running)["system_fingerprint"] == "base"
    refused = running.post(
        "/v1/chat/completions", {"model": f"hone:{name}", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_a_canary_answers_its_share_and_changes_no_conversation_mid_way(running: Running, tmp_path: Path) -> None:
    before = [f"before-{number}" for number in range(8)]
    for conversation in before:
        ask(running, conversation=conversation)
    name = publish(running, tmp_path)
    assert running.operator.post(f"/v1/adapters/{name}/canary", json={"share": 1.5}).status_code == 400
    running.operator.post(f"/v1/adapters/{name}/canary", json={"share": 0.5})
    until(lambda: running.operator.get(f"/v1/adapters/{name}").json()["loaded"])
    assert {ask(running, conversation=conversation)["system_fingerprint"] for conversation in before} == {"base"}
    new = {f"new-{n}": ask(running, conversation=f"new-{n}")["system_fingerprint"] for n in range(24)}
    assert set(new.values()) == {"base", name}
    running.operator.post(f"/v1/adapters/{name}/canary", json={"share": 0.01})
    assert {c: ask(running, conversation=c)["system_fingerprint"] for c in new} == new

    assert running.operator.delete("/v1/adapters/canary").json()["canary"] is None
    assert {ask(running, conversation=conversation)["system_fingerprint"] for conversation in new} == {"base"}


def test_a_restarted_engine_gets_its_adapters_back_before_it_answers(running: Running, tmp_path: Path) -> None:
    name = publish(running, tmp_path)
    running.operator.post(f"/v1/adapters/{name}/promote", json={})
    until(lambda: live(running) == name)
    running.engine.adapters.clear()
    assert ask(running)["system_fingerprint"] == name
    running.operator.post("/v1/adapters/rollback", json={"to": "base"})
    until(lambda: live(running) == "base")


def test_a_live_adapter_that_lost_its_folder_is_told_of_and_comes_back(
    running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = publish(running, tmp_path)
    running.operator.post(f"/v1/adapters/{name}/promote", json={})
    until(lambda: live(running) == name)
    folder = running.settings.adapters_folder / name
    folder.rename(tmp_path / "away")
    running.engine.adapters.clear()
    until(lambda: live(running) == "base")
    assert any(name in record.getMessage() and "is missing" in record.getMessage() for record in caplog.records)
    assert running.operator.get(f"/v1/adapters/{name}").json()["state"] == "retired"
    until(lambda: running.get("/health").status_code == 200)  # the engine gets requests again a moment later
    health = running.get("/health")
    assert health.json()["rollout"].startswith(f"base is live in place of {name}. ")
    found = [finding for finding in examine(running.settings) if finding.check == "adapters"]
    assert [finding.ok for finding in found] == [False] and "is missing" in found[0].found

    (tmp_path / "away").rename(folder)
    running.operator.post(f"/v1/adapters/{name}/promote", json={})
    until(lambda: live(running) == name)
    until(lambda: running.get("/health").json()["rollout"] == "ok")
    running.operator.post("/v1/adapters/rollback", json={"to": "base"})
    until(lambda: live(running) == "base")


def test_unknown_adapters_and_runs_are_404_and_what_cannot_be_done_a_409(running: Running) -> None:
    for path in ("/v1/adapters/v999", "/v1/adapters/..", "/v1/runs/run-none", "/v1/runs/run-none/metrics"):
        assert running.operator.get(path).status_code == 404
    assert running.operator.post("/v1/adapters/v999/promote", json={}).status_code == 404
    assert running.operator.post("/v1/adapters/rollback", json={"to": "base"}).status_code == 409  # it is live


def test_learn_now_queues_a_run_that_can_be_watched_and_cancelled(running: Running) -> None:
    queued = running.operator.post("/v1/runs", json={"method": "sft", "promote": False})
    assert queued.status_code == 202
    run = queued.json()
    assert (run["state"], run["trigger"], run["method"]) == ("queued", "command", "sft")
    with running.store.read() as tx:
        row = runs.get_run(tx, run["id"])
        assert row is not None and row.options == {"promote": False}

    assert running.operator.get(f"/v1/runs/{run['id']}/metrics").json() == []
    folder = running.settings.runs_folder / run["id"]
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert running.operator.get(f"/v1/runs/{run['id']}/metrics").json() == [{"step": 1, "loss": 0.5}]
    assert running.operator.get(f"/v1/runs/{run['id']}/curves.png").status_code == 404
    (folder / "curves.png").write_bytes(b"png")
    assert running.operator.get(f"/v1/runs/{run['id']}/curves.png").headers["content-type"] == "image/png"

    assert running.operator.get("/v1/runs").json()["data"][0]["id"] == run["id"]
    refused = running.operator.get("/v1/runs?after=nope")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")
    assert running.operator.post(f"/v1/runs/{run['id']}/cancel").json()["state"] == "cancelled"
    assert running.operator.post(f"/v1/runs/{run['id']}/cancel").status_code == 409
    assert running.operator.post("/v1/runs", json={"method": "magic"}).status_code == 400


def test_learn_now_pressed_again_queues_no_twin(running: Running) -> None:
    first, again = (running.operator.post("/v1/runs", json={}).json() for _ in range(2))
    assert again["id"] == first["id"] and (first["message"], again["state"]) == ("", "queued")
    assert again["message"] == "This run was waiting already, so no second one was queued."
    with running.store.begin() as tx:
        lease = runs.lease_run(tx, "learner", 60.0, 3)
    assert lease is not None and lease.run_id == first["id"]
    second = running.operator.post("/v1/runs", json={}).json()
    assert second["id"] != first["id"] and second["message"] == ""
    for run in (first, second):
        assert running.operator.post(f"/v1/runs/{run['id']}/cancel").status_code == 200


def test_health_and_metrics_tell_how_things_are(running: Running) -> None:
    health = running.get("/health")
    assert (health.status_code, health.json()["engine"]) == (200, "ok")
    ask(running)
    text = running.get("/metrics").text
    assert 'hone_live_adapter{adapter="base"} 1.0' in text
    assert 'hone_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert 'hone_tokens_total{adapter="base",kind="completion"}' in text


def test_every_error_has_openais_body(running: Running) -> None:
    for response in (running.get("/nothing"), running.http.put("/health"), running.http.get("/v1/feedback?limit=x")):
        assert response.status_code in (400, 404, 405)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/health", "GET"),
        ("PATCH", "/v1/runs", "GET, POST"),
        ("POST", "/v1/feedback/fb-x", "DELETE, GET, PUT"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/adapters/v1/promote", "POST"),
    ],
)
def test_a_method_that_a_route_does_not_take_is_405_with_those_that_it_does(
    running: Running, method: str, path: str, allowed: str
) -> None:
    response = running.http.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    error = response.json()["error"]
    words = f"{path} takes {allowed.replace(', ', ' and ')}, not {method}. See /docs."
    assert (error["code"], error["message"]) == ("method_not_allowed", words)


def test_the_schemas_page_needs_no_other_site(running: Running) -> None:
    """A machine without the internet shows it too, and whoever runs one is told of to nobody."""
    page = running.http.get("/docs")
    assert page.status_code == 200 and "//" not in "".join(re.findall(r'(?:src|href)="([^"]+)"', page.text))
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert running.http.get(asset).status_code == 200, asset
    assert running.http.get("/openapi.json").json()["info"]["title"] == "Hone"


def test_a_body_that_is_no_text_is_told_where_it_breaks(running: Running) -> None:
    head = {"content-type": "application/json"}
    broken = running.http.post("/v1/chat/completions", content=b'{"model": "\xff"}', headers=head)
    assert broken.status_code == 400
    assert broken.json()["error"]["message"] == "The body is no UTF-8 text: byte 11 can't be read."
    deep = running.http.post("/v1/chat/completions", content=b"[" * 100_000, headers=head)
    assert deep.status_code == 400 and "nested too deeply" in deep.json()["error"]["message"]


def test_events_of_the_store_name_the_operator(running: Running, tmp_path: Path) -> None:
    name = publish(running, tmp_path)
    running.operator.post(f"/v1/adapters/{name}/reject", json={"reason": "No."})
    with running.store.read() as tx:
        newest = adapters.events(tx, name)[0]
    assert (newest.action, newest.actor, newest.reason) == ("rejected", "olga", "No.")
    again = running.operator.post(f"/v1/adapters/{name}/reject", json={"reason": "Never."})
    assert (again.status_code, again.json()["error"]["message"]) == (409, f"{name} was rejected already: No.")
