"""The fake service shows the constitution, puts another in effect, and tries one out."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from tests.ui.fake_api_objects import AS_IT_COMES, fake_constitution, now
from tests.ui.fake_service import FakeService, Refused


def add_constitution_routes(app: FastAPI, fake: FakeService) -> None:
    def sound(text: str) -> None:
        if "principles" not in text:
            raise Refused(400, "The constitution is wrong: principles: is missing.", "invalid_request")

    @app.get("/v1/constitution")
    async def constitution(request: Request) -> dict[str, Any]:
        fake.operator(request)
        fake.constitutions_read += 1
        if fake.unusable:
            raise Refused(503, fake.unusable, "constitution_unusable")
        return fake.constitution

    @app.get("/v1/constitution/versions")
    async def versions(request: Request) -> list[dict[str, Any]]:
        fake.operator(request)
        return [one | {"text": ""} for one in fake.constitutions]

    @app.get("/v1/constitution/versions/{name}")
    async def version(request: Request, name: str) -> dict[str, Any]:
        fake.operator(request)
        return next(one for one in (*fake.constitutions, fake_constitution("c0", AS_IT_COMES)) if one["name"] == name)

    @app.post("/v1/constitution/check")
    async def check(request: Request) -> dict[str, Any]:
        fake.operator(request)
        text = (await request.json())["text"]
        sound(text)
        return fake_constitution("", text) | {"warnings": ["Little room is left."] if "preamble" in text else []}

    @app.put("/v1/constitution")
    async def put(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        sound(body["text"])
        name = f"c{len(fake.constitutions) + 1}"
        fake.constitution = fake_constitution(name, body["text"])
        about = {"name": name, "sha256": f"{name}-sha", "created_at": now(), "created_by": "olga"}
        fake.constitutions.insert(0, {**about, "note": body["note"], "text": body["text"]})
        return fake.constitution

    @app.post("/v1/constitution/try")
    async def attempt(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        fake.acted.append(("try", body))
        found = {"critique": "It helps to do harm.", "revision": "I will not.", "verdict": "revision", "problem": ""}
        none = {"critique": "Nothing is wrong.", "revision": None, "verdict": None, "problem": ""}
        trials: list[dict[str, Any]] = [{"principle": "no-harm", **found}, {"principle": "true", **none}]
        shown = [one for one in trials if body["principle"] in (None, one["principle"])]
        about = {"constitution": "", "sha256": "0" * 64, "adapter": "base", "prompt": body["prompt"]}
        return {**about, "draft": "Take a pin.", "trials": shown}
