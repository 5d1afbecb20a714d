"""Runs, for operators: learn now, watch, cancel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from service.errors import NotFound
from service.parts import FOR_OPERATORS, Operator, Parts, Wired
from service.store.queries import runs as queries
from service.store.tables import Run
from service.wire import LearnRequest, Page, RunView

WAITS_ALREADY = "This run was waiting already, so no second one was queued."
router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.get("", openapi_extra=FOR_OPERATORS)
async def list_runs(
    parts: Wired, operator: Operator, after: str | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Page:
    """Every run, newest first."""
    rows = await parts.transactions.read(queries.list_runs, after, limit + 1)
    data = tuple(view(row) for row in rows[:limit])
    return Page(data=data, next=data[-1].id if len(rows) > limit else None)


@router.post("", status_code=202, openapi_extra=FOR_OPERATORS)
async def learn_now(body: LearnRequest, parts: Wired, operator: Operator) -> RunView:
    """Queues a run; the learner begins it within a second or so, or after the one that is under way.

    At most one waits: asked again before it begins, the answer is the same run, now with what this request wishes.
    """
    run, is_new = await parts.transactions.write(
        queries.ask_for_run, body.method, body.promote, parts.settings.learner.method
    )
    return view(run) if is_new else view(run).model_copy(update={"message": WAITS_ALREADY})


@router.get("/{run_id}", openapi_extra=FOR_OPERATORS)
async def get_run(run_id: str, parts: Wired, operator: Operator) -> RunView:
    """One run: its state, how far it is, and why it ended as it did."""
    return view(await _run(parts, run_id))


@router.post("/{run_id}/cancel", openapi_extra=FOR_OPERATORS)
async def cancel_run(run_id: str, parts: Wired, operator: Operator) -> RunView:
    """Ends a run that waits or is under way; nothing of it goes live."""
    return view(await parts.transactions.write(queries.cancel_run, run_id, f"Cancelled by {operator.name}."))


@router.get("/{run_id}/metrics", openapi_extra=FOR_OPERATORS)
async def get_metrics(run_id: str, parts: Wired, operator: Operator) -> list[dict[str, Any]]:
    """What the run has measured so far, one object a step."""
    run = await _run(parts, run_id)
    return await run_in_threadpool(_lines, parts.settings.runs_folder / run.id / "metrics.jsonl")


@router.get("/{run_id}/curves.png", response_class=FileResponse, openapi_extra=FOR_OPERATORS)
async def get_curves(run_id: str, parts: Wired, operator: Operator) -> FileResponse:
    """A picture of what the run measured."""
    missing = NotFound(f"Run {run_id} has no curves yet.", "They are drawn when training ends.")
    return await _picture(parts, run_id, "curves.png", missing)


@router.get("/{run_id}/frontier.png", response_class=FileResponse, openapi_extra=FOR_OPERATORS)
async def get_frontier(run_id: str, parts: Wired, operator: Operator) -> FileResponse:
    """A picture of harmlessness against helpfulness, from the base to the adapter that the run made."""
    hint = "It is drawn where the constitution measured both the adapter and the base."
    return await _picture(parts, run_id, "frontier.png", NotFound(f"Run {run_id} has no frontier.", hint))


async def _picture(parts: Parts, run_id: str, name: str, missing: NotFound) -> FileResponse:
    path = parts.settings.runs_folder / (await _run(parts, run_id)).id / name
    if not path.is_file():
        raise missing
    return FileResponse(path, media_type="image/png", headers={"cache-control": "no-cache"})


async def _run(parts: Parts, run_id: str) -> Run:
    run = await parts.transactions.read(queries.get_run, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.", "GET /v1/runs lists them.")
    return run


def _lines(path: Path) -> list[dict[str, Any]]:
    """Every complete line; the last may be half written."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [orjson.loads(line) for line in lines if line]


def view(run: Run) -> RunView:
    return RunView.model_validate({name: getattr(run, name) for name in RunView.model_fields})
