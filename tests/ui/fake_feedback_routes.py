"""The fake service takes feedback."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request

from tests.ui.fake_api_objects import now
from tests.ui.fake_service import FakeService, Refused


def add_feedback_routes(app: FastAPI, fake: FakeService) -> None:
    def check(request: Request, feedback: dict[str, Any]) -> None:
        refs = [feedback["a"], feedback["b"]] if feedback["kind"] == "comparison" else [feedback]
        exchanges = [fake.own(request, fake.exchanges, ref["exchange_id"]) for ref in refs]
        if any(exchange["messages"] != exchanges[0]["messages"] for exchange in exchanges):
            raise Refused(400, "The replies answer different messages, so they can't be compared.", "invalid_request")
        for ref, exchange in zip(refs, exchanges, strict=True):
            if feedback["kind"] == "correction" and feedback["text"] == exchange["replies"][ref["index"]]["text"]:
                raise Refused(400, "The correction equals the reply.", "invalid_request")

    @app.post("/v1/feedback", status_code=201)
    async def give(request: Request) -> dict[str, Any]:
        feedback = await request.json()
        while fake.holds_feedback:  # noqa: ASYNC110  # the test that lets go lives in another thread
            await asyncio.sleep(0.01)
        if fake.refuses_feedback:
            raise Refused(503, "The store is busy. Try again in a moment.", "unavailable")
        check(request, feedback)
        name = f"fb-{len(fake.feedback) + 1}"
        fake.owners[name] = fake.caller(request)
        stored = {"id": name, "created_at": now(), "updated_at": now(), "withdrawn": False, "feedback": feedback}
        fake.feedback[name] = {**stored, "learned_in": [], "considered": False}
        return fake.feedback[name]

    @app.get("/v1/feedback/stats")
    async def stats(request: Request) -> dict[str, Any]:
        fake.operator(request)
        given = list(fake.feedback.values())
        kinds = [stored["feedback"]["kind"] for stored in given]
        return {
            "total": len(given),
            "withdrawn": sum(stored["withdrawn"] for stored in given),
            "by_kind": {kind: kinds.count(kind) for kind in kinds},
            "people": len({fake.owners[stored["id"]] for stored in given}),
            "since_last_run": len(given),
        }

    @app.get("/v1/feedback")
    async def mine(request: Request, after: str | None = None, limit: int = 20) -> dict[str, Any]:
        caller = fake.caller(request)
        own = [stored for name, stored in reversed(fake.feedback.items()) if fake.owners[name] == caller]
        start = next((i + 1 for i, stored in enumerate(own) if stored["id"] == after), 0)
        page = own[start : start + limit]
        return {"data": page, "next": page[-1]["id"] if start + limit < len(own) else None}

    @app.put("/v1/feedback/{name}")
    async def change(request: Request, name: str) -> dict[str, Any]:
        stored = fake.own(request, fake.feedback, name)
        if stored["withdrawn"]:
            raise Refused(409, "That feedback was withdrawn.", "conflict")
        feedback = await request.json()
        check(request, feedback)
        stored.update(feedback=feedback, updated_at=now())
        return stored

    @app.delete("/v1/feedback/{name}")
    async def withdraw(request: Request, name: str) -> dict[str, Any]:
        stored = fake.own(request, fake.feedback, name)
        stored["withdrawn"] = True
        return stored
