"""Adapters, for operators: what there is, why, and what should serve.

These routes write what is wanted; the rollout brings the engine there. An adapter goes live once loaded and proven.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.adapters.rollback import way_back
from service.errors import NotFound
from service.parts import FOR_OPERATORS, Operator, Parts, Wired
from service.store.queries import adapters as queries
from service.store.queries import serving
from service.store.queries.adapters import BASE, BASE_IS_NO_ADAPTER
from service.store.tables import Adapter, AdapterEventRow, Serving
from service.wire import (
    AdapterEvent,
    AdapterView,
    CanaryRequest,
    PromoteRequest,
    RejectRequest,
    RollbackRequest,
    ServingView,
)

LISTED = ("share_won", "pairs")
"""Of a report, in the list, which pages ask for all the time: how often its replies won, and on how many pairs of
people's that rests."""
router = APIRouter(tags=["adapters"])


@router.get("/v1/serving", openapi_extra=FOR_OPERATORS)
async def get_serving(parts: Wired, operator: Operator) -> ServingView:
    """What is live, what was before, what is on its way, and the canary with its share."""
    return _serving(await parts.transactions.read(serving.desired_state))


@router.get("/v1/adapters", openapi_extra=FOR_OPERATORS)
async def list_adapters(parts: Wired, operator: Operator) -> list[AdapterView]:
    """Every adapter, newest first, without its history, and of its report `share_won` and `pairs` alone."""

    def read(tx: Session) -> tuple[list[tuple[Adapter, dict[str, Any]]], str | None]:
        return queries.list_with_figures(tx, LISTED), serving.desired_state(tx).requested

    rows, requested = await parts.transactions.read(read)
    return [_view(row, figures, requested, parts.rollout.loaded) for row, figures in rows]


@router.get("/v1/adapters/{name}", openapi_extra=FOR_OPERATORS)
async def get_adapter(name: str, parts: Wired, operator: Operator) -> AdapterView:
    """One adapter with its whole report and its history: who did what to it, and why."""
    return await _look(parts, name)


@router.post("/v1/adapters/rollback", status_code=202, openapi_extra=FOR_OPERATORS)
async def roll_back(body: RollbackRequest, parts: Wired, operator: Operator) -> ServingView:
    """Back to a version, or to what was live before; refused where its files are broken, and what serves goes on."""
    target = await run_in_threadpool(way_back, parts.registry, body.to)
    row = await parts.transactions.write(serving.request_rollback, target, operator.name, body.reason)
    parts.rollout.wake()
    return _serving(row)


@router.delete("/v1/adapters/canary", openapi_extra=FOR_OPERATORS)
async def end_canary(parts: Wired, operator: Operator) -> ServingView:
    """Ends the canary; it is a candidate again, or retired if it was live before."""
    row = await parts.transactions.write(serving.clear_canary, operator.name, "Ended by an operator.")
    parts.rollout.wake()
    return _serving(row)


@router.post("/v1/adapters/{name}/promote", status_code=202, openapi_extra=FOR_OPERATORS)
async def promote(name: str, body: PromoteRequest, parts: Wired, operator: Operator) -> AdapterView:
    """Asks for it to go live; it does once the engine has been proven to serve it."""
    if name == BASE:
        raise NotFound(BASE_IS_NO_ADAPTER, "POST /v1/adapters/rollback with to = base makes it live.")
    await run_in_threadpool(parts.registry.check, name)  # what an engine still holds may be broken on the disk
    await parts.transactions.write(serving.request_live, name, operator.name, body.reason or "Promoted.")
    parts.rollout.wake()
    return await _look(parts, name)


@router.post("/v1/adapters/{name}/reject", openapi_extra=FOR_OPERATORS)
async def reject(name: str, body: RejectRequest, parts: Wired, operator: Operator) -> AdapterView:
    """Takes an adapter out, for ever."""
    await parts.transactions.write(serving.set_state, name, "rejected", operator.name, body.reason or "Rejected.")
    parts.rollout.wake()
    return await _look(parts, name)


@router.post("/v1/adapters/{name}/canary", openapi_extra=FOR_OPERATORS)
async def start_canary(name: str, body: CanaryRequest, parts: Wired, operator: Operator) -> AdapterView:
    """Lets it answer a share of the conversations that begin from now on."""
    await run_in_threadpool(parts.registry.check, name)
    reason = body.reason or f"Canary for {body.share:.0%} of conversations."
    await parts.transactions.write(serving.set_canary, name, body.share, operator.name, reason)
    parts.rollout.wake()
    return await _look(parts, name)


async def _look(parts: Parts, name: str) -> AdapterView:
    def read(tx: Session) -> tuple[Adapter | None, str | None, Sequence[AdapterEventRow]]:
        return queries.get_adapter(tx, name), serving.desired_state(tx).requested, queries.events(tx, name)

    row, requested, events = await parts.transactions.read(read)
    if row is None:
        raise NotFound(f"There is no adapter {name!r}.", "GET /v1/adapters lists them.")
    history = tuple(
        AdapterEvent(at=event.at, adapter=event.adapter, action=event.action, actor=event.actor, reason=event.reason)
        for event in events
    )
    return _view(row, row.report, requested, parts.rollout.loaded).model_copy(update={"history": history})


def _view(row: Adapter, report: dict[str, Any], requested: str | None, loaded: frozenset[str]) -> AdapterView:
    return AdapterView.model_validate(
        {
            "name": row.name,
            "state": row.state,
            "parent": row.parent,
            "run_id": row.run_id,
            "created_at": row.created_at,
            "requested": row.name == requested,
            "loaded": row.name in loaded,
            "reason": row.reason,
            "report": report,
        }
    )


def _serving(row: Serving) -> ServingView:
    return ServingView(
        live=row.live,
        previous=row.previous,
        requested=row.requested,
        canary=row.canary,
        canary_share=row.canary_share,
    )
