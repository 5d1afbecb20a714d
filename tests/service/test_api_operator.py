"""What is for operators alone, and what they are refused."""

from pathlib import Path

import pytest

from service.store.queries import adapters
from tests.service.conftest import Running
from tests.service.publishing import publish

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
    ("GET", "/v1/runs/run-1/frontier.png"),
    ("GET", "/v1/serving"),
    ("GET", "/v1/feedback/stats"),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_operator_actions_are_refused_to_users(running: Running, method: str, path: str) -> None:
    session = running.post("/v1/sessions", {}).json()["token"]
    for headers in ({}, {"x-hone-user": "olga"}, {"authorization": f"Bearer {session}"}):
        response = running.http.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


def test_unknown_adapters_and_runs_are_404_and_what_cannot_be_done_a_409(running: Running) -> None:
    for path in ("/v1/adapters/v999", "/v1/adapters/..", "/v1/runs/run-none", "/v1/runs/run-none/metrics"):
        assert running.operator.get(path).status_code == 404
    assert running.operator.post("/v1/adapters/v999/promote", json={}).status_code == 404
    assert running.operator.post("/v1/adapters/rollback", json={"to": "base"}).status_code == 409  # it is live


def test_events_of_the_store_name_the_operator(running: Running, tmp_path: Path) -> None:
    name = publish(running, tmp_path)
    running.operator.post(f"/v1/adapters/{name}/reject", json={"reason": "No."})
    with running.store.read() as tx:
        newest = adapters.events(tx, name)[0]
    assert (newest.action, newest.actor, newest.reason) == ("rejected", "olga", "No.")
    again = running.operator.post(f"/v1/adapters/{name}/reject", json={"reason": "Never."})
    assert (again.status_code, again.json()["error"]["message"]) == (409, f"{name} was rejected already: No.")
