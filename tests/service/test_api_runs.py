"""Runs over HTTP: asked for, watched, cancelled."""

from service.store.queries import runs
from tests.service.conftest import Running


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
    for picture in ("curves.png", "frontier.png"):
        assert running.operator.get(f"/v1/runs/{run['id']}/{picture}").status_code == 404
        (folder / picture).write_bytes(b"png")
        shown = running.operator.get(f"/v1/runs/{run['id']}/{picture}")
        assert (shown.headers["content-type"], shown.content) == ("image/png", b"png")

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
