"""Who am I, how is everything, and the numbers for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from service.adapters.replacement import replacement
from service.errors import HoneError
from service.parts import AnyCaller, Parts, Wired
from service.store.queries import serving
from service.wire import WhoAmI

router = APIRouter(tags=["status"])


@router.get("/health")
async def health(request: Request, parts: Wired) -> JSONResponse:
    """200 when chats can be answered, else 503; the body says what is missing, and how each engine is.

    `status` is `ok`, `degraded` (chats are answered, and something waits for an operator: 200, too) or `unavailable`
    (503). `rollout` tells why what was asked for doesn't serve: it waits, or had to be replaced, or engines get no
    requests; `problems` lists of that what is no single engine's, `replicas` how each engine is. `constitution` tells
    why chats can't be answered by the one in effect: `unavailable` where `constitution.serve` is `always`.

    Beyond loopback only an operator's key shows the engines, and why the store or the constitution fails.
    """
    state: dict[str, Any] = {"status": "ok", "store": "ok", "engine": "ok", "live": None, "rollout": "ok"}
    problem, unusable = parts.rollout.problem, None
    try:
        live, replaced = await parts.transactions.read(_serving, parts.settings.adapters_folder)
        state["live"], problem = live, " ".join(filter(None, (replaced, problem))) or None
        unusable = await parts.principles.problem()
    except HoneError as error:
        state |= {"status": "unavailable", "store": str(error)}
    if failure := parts.transactions.failure():
        state |= {"status": "unavailable", "store": failure}
    if not await parts.replicas.is_ready():
        state |= {"status": "unavailable", "engine": "not ready"}
    if parts.pages is not None:
        state["pages"] = parts.pages.state
    if unusable and parts.principles.settings.serve == "always":
        state["status"] = "unavailable"
    state["constitution"] = "unusable" if unusable else "ok"
    if problem:
        state["rollout"] = "not as it should be"
    if (problem or unusable) and state["status"] == "ok":
        state["status"] = "degraded"
    if await _may_see_inside(request, parts):
        state["rollout"], state["constitution"] = problem or "ok", unusable or "ok"
        state["problems"] = parts.rollout.problems
        state["replicas"] = [replica.as_dict() for replica in parts.replicas.states()]
    elif state["store"] != "ok":
        state["store"] = "fails"
    return JSONResponse(state, 503 if state["status"] == "unavailable" else 200)


def _serving(tx: Session, adapters_folder: Path) -> tuple[str, str | None]:
    return serving.desired_state(tx).live, replacement(tx, adapters_folder)


async def _may_see_inside(request: Request, parts: Parts) -> bool:
    if parts.identities.is_local(request.headers):
        return True
    try:
        return (await parts.identities.identify(request.headers)).role == "operator"
    except HoneError:
        return False


@router.get("/health/live")
async def alive() -> dict[str, str]:
    """200 as long as the process answers; says nothing about engine and store."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request, parts: Wired) -> Response:
    """Prometheus text. Beyond loopback an operator's key is needed."""
    if not parts.identities.is_local(request.headers):
        (await parts.identities.identify(request.headers)).must_be_operator()
    live = (await parts.transactions.read(serving.desired_state)).live
    return Response(
        parts.metrics.render(live, parts.replicas.states()), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


@router.get("/v1/whoami")
async def who_am_i(caller: AnyCaller) -> WhoAmI:
    """The caller that this request comes from, and the role."""
    return WhoAmI(caller=caller.name, role=caller.role)
