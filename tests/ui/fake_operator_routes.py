"""The fake service shows an operator adapters and runs, and does as it is told with them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from tests.ui.fake_api_objects import fake_run, now
from tests.ui.fake_service import FakeService, Refused


def listed(report: dict[str, Any]) -> dict[str, Any]:
    """As much of a report as the service's list has."""
    return {name: report[name] for name in ("share_won", "pairs") if name in report}


def add_operator_routes(app: FastAPI, fake: FakeService) -> None:
    def adapter(name: str) -> dict[str, Any]:
        if name not in fake.adapters:
            raise Refused(404, f"There is no adapter {name}.", "not_found")
        return fake.adapters[name]

    def go_live(name: str, reason: str) -> None:
        for other in fake.adapters.values():
            if other["state"] in ("live", "canary"):
                other.update(state="retired", reason="Another one is live.")
        if name != "base":
            adapter(name).update(state="live", reason=reason)
        fake.serving.update(live=name, previous=fake.serving["live"], canary=None, canary_share=0.0)

    @app.get("/v1/serving")
    async def serving(request: Request) -> dict[str, Any]:
        fake.operator(request)
        return fake.serving

    @app.get("/v1/adapters")
    async def adapters(request: Request) -> list[dict[str, Any]]:
        fake.operator(request)
        return [{**adapter, "history": [], "report": listed(adapter["report"])} for adapter in fake.adapters.values()]

    @app.get("/v1/adapters/{name}")
    async def one_adapter(request: Request, name: str) -> dict[str, Any]:
        fake.operator(request)
        return adapter(name)

    @app.post("/v1/adapters/rollback")
    async def rollback(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        fake.acted.append(("rollback", body))
        go_live(body.get("to") or fake.serving["previous"] or "base", body["reason"])
        return fake.serving

    @app.delete("/v1/adapters/canary")
    async def end_canary(request: Request) -> dict[str, Any]:
        fake.operator(request)
        fake.acted.append(("end_canary", {}))
        adapter(fake.serving["canary"]).update(state="candidate")
        fake.serving.update(canary=None, canary_share=0.0)
        return fake.serving

    @app.post("/v1/adapters/{name}/{action}")
    async def act(request: Request, name: str, action: str) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        chosen = adapter(name)
        fake.acted.append((action, {"name": name, **body}))
        if action == "promote":
            go_live(name, body["reason"])
        elif action == "reject":
            chosen.update(state="rejected", reason=body["reason"])
        else:
            chosen.update(state="canary", reason=body["reason"])
            fake.serving.update(canary=name, canary_share=body["share"])
        return chosen

    @app.get("/v1/runs")
    async def runs(request: Request) -> dict[str, Any]:
        fake.operator(request)
        return {"data": list(reversed(fake.runs.values())), "next": None}

    @app.post("/v1/runs", status_code=202)
    async def learn(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        fake.acted.append(("learn", body))
        name = f"run-{len(fake.runs) + 1}"
        fake.runs[name] = fake_run(name, "running", method=body.get("method", "auto"))
        fake.metrics[name] = []
        return fake.runs[name]

    @app.get("/v1/runs/{name}/metrics")
    async def metrics(request: Request, name: str) -> list[dict[str, Any]]:
        fake.operator(request)
        return fake.metrics.get(name, [])

    @app.post("/v1/runs/{name}/cancel")
    async def cancel(request: Request, name: str) -> dict[str, Any]:
        fake.operator(request)
        fake.acted.append(("cancel", {"name": name}))
        fake.runs[name].update(state="cancelled", finished_at=now(), message="Cancelled by an operator.")
        return fake.runs[name]
