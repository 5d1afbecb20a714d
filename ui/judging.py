"""What a person says about a reply, kept in step with the service: said, changed, taken back.

Of each kind there is at most one feedback by this person about a reply: the first press gives it, another changes it,
the same again takes it back. The page shows what the service acknowledged, never what was merely clicked.
"""

from __future__ import annotations

import uuid
from typing import Any

from ui.client import Credentials, ServiceClient, ServiceError
from ui.conversation import Reply, Turn

VERDICTS = ("a", "b", "tie", "both_bad")


async def judge(
    service: ServiceClient, who: Credentials, reply: Reply, kind: str, content: dict[str, Any] | None
) -> None:
    """Give `kind` of feedback about `reply`, or change it; `content` None takes it back."""
    feedback = None if content is None else {"kind": kind, **reply.about(), **content}
    if feedback is not None and not reply.kept:
        raise ServiceError("This reply was not finished, so nothing can be said about it. Try it again first.")
    stored = await _put(service, who, reply.given.get(kind), feedback)
    if stored is None:
        reply.given.pop(kind, None)
    else:
        reply.given[kind] = stored


async def compare(service: ServiceClient, who: Credentials, turn: Turn, verdict: str | None) -> None:
    """Say which of a turn's two compared drafts is better; None takes the verdict back."""
    if turn.compared is None or verdict not in (*VERDICTS, None):
        raise ServiceError("There are no two answers to compare here.")
    a, b = (turn.replies[position] for position in turn.compared)
    feedback = None
    if verdict is not None:
        feedback = {"kind": "comparison", "a": a.about(), "b": b.about(), "verdict": verdict}
        if not (a.kept and b.kept):
            raise ServiceError("One of the two answers was not finished, so they can't be compared.")
    turn.comparison = await _put(service, who, turn.comparison, feedback)


async def _put(
    service: ServiceClient, who: Credentials, stored: dict[str, Any] | None, feedback: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Bring the service from `stored` to `feedback`. A feedback that was withdrawn elsewhere is given anew."""
    if feedback is None:
        if stored is not None:
            await _withdraw(service, who, stored["id"])
        return None
    if stored is not None:
        try:
            return await service.change_feedback(who, stored["id"], feedback)
        except ServiceError as error:
            if error.status not in (404, 409):
                raise
    return await service.give_feedback(who, feedback, idempotency_key=uuid.uuid4().hex)


async def _withdraw(service: ServiceClient, who: Credentials, feedback_id: str) -> None:
    try:
        await service.withdraw_feedback(who, feedback_id)
    except ServiceError as error:
        if error.status != 404:  # gone already is what was wanted
            raise
