"""Adapters over HTTP: promoted, tried as a canary, rolled back, over a real registry and the fake engine."""

from pathlib import Path
from typing import Any

import pytest

from service.adapters.registry import Registry
from service.doctor import examine
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.waiting import until
from tests.service.conftest import Running
from tests.service.publishing import live, publish


def ask(running: Running, model: str = "hone", conversation: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    if conversation:
        body["hone"] = {"conversation_id": conversation}
    answer: dict[str, Any] = running.post("/v1/chat/completions", body).json()
    return answer


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
