"""A conversation after a reload: drawn again from what the service holds, by the trail that the page's address keeps.

The trail names the exchanges that the conversation is made of, and nothing else; the service hands each of them to its
owner alone. So a page that was reloaded, or whose server was restarted, goes on where it was, and an address that
somebody else opens shows nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ui.client import Credentials, ServiceClient, ServiceError
from ui.conversation import Conversation, Reply, Turn

MOST_TURNS = 100
MOST_FEEDBACK = 200  # the service's largest page
KINDS = ("thumb", "score", "label", "critique", "correction")

Step = tuple[str, int]  # exchange, index of the reply that the conversation went on with


def read_trail(trail: str) -> list[Step]:
    """`exchange.index/exchange.index/…`, the latest turns of it; what can't be read is left out."""
    steps = []
    for part in trail.split("/")[-MOST_TURNS:]:
        exchange_id, _, index = part.rpartition(".")
        if exchange_id and index.isdecimal():
            steps.append((exchange_id, int(index)))
    return steps


async def restore(service: ServiceClient, who: Credentials, talk: Conversation, trail: str) -> None:
    """Fill an empty conversation; raises ServiceError when the service is away."""
    steps = read_trail(trail)
    found = await asyncio.gather(*(_exchange(service, who, exchange_id) for exchange_id, _ in steps))
    turns = [_turn(exchange, step[1]) for exchange, step in zip(found, steps, strict=True) if exchange]
    if not turns:
        return
    stored = (await service.my_feedback(who, limit=MOST_FEEDBACK))["data"]
    for turn in turns:
        for reply in turn.replies:
            reply.given = {
                one["feedback"]["kind"]: one for one in stored if not one["withdrawn"] and _is_about(one, reply)
            }
    talk.turns = turns
    talk.id = next(exchange["conversation_id"] for exchange in reversed(found) if exchange)


async def _exchange(service: ServiceClient, who: Credentials, exchange_id: str) -> dict[str, Any] | None:
    try:
        return await service.exchange(who, exchange_id)
    except ServiceError as error:
        if error.status == 404:
            return None
        raise


def _turn(exchange: dict[str, Any], chosen: int) -> Turn:
    replies = [
        Reply(
            index=reply["index"],
            exchange_id=exchange["id"],
            adapter=exchange["adapter"],
            text=reply["text"],
            finish_reason=reply["finish_reason"] or "stopped",
            kept=True,
        )
        for reply in exchange["replies"]
    ]
    prompt = next((m["content"] for m in reversed(exchange["messages"]) if m.get("role") == "user"), "")
    position = next((i for i, reply in enumerate(replies) if reply.index == chosen), 0)
    pair = len(replies) == 2
    return Turn(str(prompt), replies=replies, chosen=position, side_by_side=pair, compared=(0, 1) if pair else None)


def _is_about(stored: dict[str, Any], reply: Reply) -> bool:
    feedback = stored["feedback"]
    about = (feedback.get("exchange_id"), feedback.get("index"))
    return feedback["kind"] in KINDS and about == (reply.exchange_id, reply.index)
