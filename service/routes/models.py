"""`GET /v1/models`: the aliases that a chat request may name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter

from service.parts import AnyCaller, Parts, Wired
from service.routing import ALIAS, BASE, SERVABLE, resolve
from service.store.queries import adapters

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(parts: Wired, caller: AnyCaller) -> dict[str, Any]:
    """`hone` is what is live, `hone:base` the model without an adapter, `hone:vN` a version."""
    return {"object": "list", "data": await _models(parts)}


@router.get("/v1/models/{model}")
async def get_model(model: str, parts: Wired, caller: AnyCaller) -> dict[str, Any]:
    """One of them; 404 when there is no such model."""
    route = await parts.transactions.read(resolve, model)
    known = {entry["id"]: entry for entry in await _models(parts)}
    return known.get(route.alias) or _model(route.alias, None)


async def _models(parts: Parts) -> list[dict[str, Any]]:
    rows = await parts.transactions.read(adapters.list_adapters)
    versions = [_model(f"{ALIAS}:{row.name}", row.created_at) for row in rows if row.state in SERVABLE]
    return [_model(ALIAS, None), _model(f"{ALIAS}:{BASE}", None), *versions]


def _model(name: str, created: datetime | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(created.timestamp()) if created else 0,
        "owned_by": "hone",
    }
