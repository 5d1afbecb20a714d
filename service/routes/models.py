"""`GET /v1/models`: the aliases that a chat request may name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from sqlalchemy.orm import Session

from service.errors import ModelNotFound
from service.parts import AnyCaller, Parts, Wired
from service.routing import ALIAS, BASE, SERVABLE
from service.store.queries import models, serving

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(parts: Wired, caller: AnyCaller) -> dict[str, Any]:
    """`hone` is what is live, `hone:base` the model without an adapter, `hone:vN` a version. `constitutional` says
    which chats the constitution has a say in: never, asked or always."""
    return {"object": "list", "data": await _models(parts)}


@router.get("/v1/models/{model}")
async def get_model(model: str, parts: Wired, caller: AnyCaller) -> dict[str, Any]:
    """One of them; 404 when there is no such model."""
    known = {entry["id"]: entry for entry in await _models(parts)}
    if model not in known:
        raise ModelNotFound(f"There is no model {model!r}.", "GET /v1/models lists them.", param="model")
    return known[model]


async def _models(parts: Parts) -> list[dict[str, Any]]:
    def read(tx: Session) -> tuple[str, dict[str, datetime]]:
        return serving.desired_state(tx).live, models.made_at(tx, SERVABLE)

    live, versions = await parts.transactions.read(read)
    created = {BASE: parts.started_at, **versions}  # of the base no more is known than since when it serves here
    names = {ALIAS: live} | {f"{ALIAS}:{name}": name for name in created}
    context = parts.replicas.context
    serve = parts.principles.settings.serve
    return [_model(alias, created.get(name, parts.started_at), context, serve) for alias, name in names.items()]


def _model(name: str, created: datetime, context: int | None, constitutional: str) -> dict[str, Any]:
    """As OpenAI lists models, and as vLLM says how many tokens fit; and which chats the constitution has a say in."""
    return {
        "id": name,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": "hone",
        "max_model_len": context,
        "constitutional": constitutional,
    }
