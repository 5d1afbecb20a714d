"""Feedback: give, list, change, withdraw. An answer means that it is on the disk."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Header, Query

from service.parts import FOR_OPERATORS, AnyCaller, Operator, Wired
from service.store.queries import feedback as queries
from service.wire import FeedbackStats, OneOfTheKinds, Page, StoredFeedback

router = APIRouter(prefix="/v1/feedback", tags=["feedback"])
FeedbackBody = Annotated[OneOfTheKinds, Body(discriminator="kind")]


@router.post("", status_code=201)
async def give_feedback(
    body: FeedbackBody,
    parts: Wired,
    caller: AnyCaller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> StoredFeedback:
    """One judgement. Sent again with the same `Idempotency-Key`, it stores nothing more, and answers the one that is
    there, changed or withdrawn as it may be meanwhile."""
    name = caller.under(body.user).name
    stored, is_new = await parts.transactions.write(queries.add_feedback_once, name, body, idempotency_key)
    if is_new:
        parts.metrics.feedback.labels(body.kind).inc()
    return stored


@router.get("")
async def list_feedback(
    parts: Wired, caller: AnyCaller, after: str | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Page:
    """The caller's own feedback, newest first."""
    rows = await parts.transactions.read(queries.list_feedback, caller.name, after, limit + 1)
    return Page(data=tuple(rows[:limit]), next=rows[limit - 1].id if len(rows) > limit else None)


@router.get("/stats", openapi_extra=FOR_OPERATORS)
async def feedback_stats(parts: Wired, operator: Operator) -> FeedbackStats:
    """How much feedback there is, by kind, and how much is new to the learner, up to five seconds ago."""
    return await parts.recent_stats.get()


@router.get("/{feedback_id}")
async def get_feedback(feedback_id: str, parts: Wired, caller: AnyCaller) -> StoredFeedback:
    """One's own feedback, with the first and the newest adapter that learned from it."""
    return await parts.transactions.read(queries.get_feedback, caller.name, feedback_id)


@router.put("/{feedback_id}")
async def change_feedback(feedback_id: str, body: FeedbackBody, parts: Wired, caller: AnyCaller) -> StoredFeedback:
    """Replaces a judgement by one of the same kind, in the same conversation; the learner takes it as new."""
    name = caller.under(body.user).name
    return await parts.transactions.write(queries.change_feedback, name, feedback_id, body)


@router.delete("/{feedback_id}")
async def withdraw_feedback(feedback_id: str, parts: Wired, caller: AnyCaller) -> StoredFeedback:
    """Takes a judgement back: no later run learns from it."""
    return await parts.transactions.write(queries.withdraw_feedback, caller.name, feedback_id)
