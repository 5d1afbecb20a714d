"""Exchanges as they are stored, and how probable another model finds their replies."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from service.adapters.engine import score_all
from service.auth import Caller
from service.chat.streaming import CallerLeft, until_caller_leaves
from service.engine import Engine
from service.errors import NotFound
from service.parts import AnyCaller, Parts, Wired
from service.routing import BASE, Route, resolve
from service.store.queries import exchanges, revisions
from service.store.tables import Exchange
from service.wire import ScoreRequest, ScoreResponse, StoredExchange, StoredReply, StoredRevision

router = APIRouter(tags=["exchanges"])


@router.get("/v1/exchanges/{exchange_id}")
async def get_exchange(exchange_id: str, parts: Wired, caller: AnyCaller) -> StoredExchange:
    """One's own exchange; operators may see any."""
    row = await _own(parts, caller, exchange_id)
    made = await parts.transactions.read(revisions.revisions_of, exchange_id)
    return StoredExchange(
        id=row.id,
        created_at=row.created_at,
        conversation_id=row.conversation_id,
        model=row.model,
        adapter=row.adapter,
        messages=tuple(row.messages),
        sampling=row.sampling,
        best_of=row.best_of,
        prompt_token_ids=tuple(row.prompt_token_ids),
        replies=tuple(
            StoredReply(
                index=reply.index,
                text=reply.text,
                finish_reason=reply.finish_reason,
                token_ids=tuple(reply.token_ids),
                logprobs=tuple(reply.logprobs),
            )
            for reply in row.replies
        ),
        revisions=tuple(
            StoredRevision.model_validate({name: getattr(one, name) for name in StoredRevision.model_fields})
            for one in made
        ),
    )


@router.post("/v1/score", response_model=ScoreResponse)
async def score(body: ScoreRequest, request: Request, parts: Wired, caller: AnyCaller) -> ScoreResponse | Response:
    """The natural log-probability of each token of an exchange's replies under another model."""
    exchange = await _own(parts, caller.under(body.user), body.exchange_id)
    route = await parts.transactions.read(resolve, body.model)
    try:
        scored = await until_caller_leaves(request.receive, _scores(parts, exchange, route))
    except CallerLeft:
        return Response(status_code=499)  # nobody reads it; nginx's number for the log
    return ScoreResponse(model=route.model, adapter=route.adapter, token_logprobs=tuple(map(tuple, scored)))


async def _scores(parts: Parts, exchange: Exchange, route: Route) -> list[Sequence[float]]:
    """Of each reply."""
    name = await parts.replicas.base() if route.adapter == BASE else route.adapter

    async def score_replies(engine: Engine) -> list[Sequence[float]]:
        return await score_all(
            engine, name, [(exchange.prompt_token_ids, reply.token_ids) for reply in exchange.replies]
        )

    async with parts.replicas.answering(route.adapter, exchange.conversation_id, score_replies) as scored:
        pass  # it is whole
    return scored


async def _own(parts: Parts, caller: Caller, exchange_id: str) -> Exchange:
    row = await parts.transactions.read(exchanges.get_exchange, exchange_id)
    if row is None or (row.caller != caller.name and caller.role != "operator"):
        raise NotFound(f"You have no exchange {exchange_id!r}.", "Send the id of a chat reply.", param="exchange_id")
    return row
