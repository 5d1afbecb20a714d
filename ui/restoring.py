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
MOST_DRAFTS = 10  # exchanges that one turn may name
FEEDBACK_PAGE = 200  # the service's largest
MOST_FEEDBACK = 2000  # looked through for the marks of a conversation
KINDS = ("thumb", "score", "label", "critique", "correction")

Step = tuple[tuple[str, ...], int | None]  # the exchanges that hold a turn's drafts, and the position of the chosen one


def read_trail(trail: str) -> list[Step]:
    """What `Conversation.trail()` wrote, the latest turns of it; what can't be read is left out."""
    steps: list[Step] = []
    for part in trail.split("/")[-MOST_TURNS:]:
        named, dot, position = part.partition(".")
        exchanges = tuple(dict.fromkeys(filter(None, named.split("~"))))[-MOST_DRAFTS:]
        if exchanges and (position.isdecimal() or not dot):
            steps.append((exchanges, int(position) if dot else None))
    return steps


async def restore(service: ServiceClient, who: Credentials, talk: Conversation, trail: str) -> None:
    """Fill an empty conversation; raises ServiceError when the service is away."""
    steps = read_trail(trail)
    asked = dict.fromkeys(exchange_id for exchanges, _ in steps for exchange_id in exchanges)
    answers = await asyncio.gather(*(_exchange(service, who, exchange_id) for exchange_id in asked))
    found = {exchange["id"]: exchange for exchange in answers if exchange and exchange["replies"]}
    turns = [
        _turn([found[exchange_id] for exchange_id in exchanges if exchange_id in found], position)
        for exchanges, position in steps
        if any(exchange_id in found for exchange_id in exchanges)
    ]
    if not turns:
        return
    in_force = [one for one in await _my_feedback(service, who) if not one["withdrawn"]]
    for turn in turns:
        _take_comparison(turn, in_force)
        for reply in turn.replies:
            about = [one for one in reversed(in_force) if _is_about(one, reply)]
            reply.given = {one["feedback"]["kind"]: one for one in about}  # of two of a kind the newest
    talk.turns = turns
    talk.by_principles = any(reply.revisions for reply in turns[-1].replies)
    talk.id = list(found.values())[-1]["conversation_id"]


async def _exchange(service: ServiceClient, who: Credentials, exchange_id: str) -> dict[str, Any] | None:
    try:
        return await service.exchange(who, exchange_id)
    except ServiceError as error:
        if error.status == 404:
            return None
        raise


async def _my_feedback(service: ServiceClient, who: Credentials) -> list[dict[str, Any]]:
    """The newest `MOST_FEEDBACK`, newest first."""
    page = await service.my_feedback(who, limit=FEEDBACK_PAGE)
    found: list[dict[str, Any]] = page["data"]
    while page["next"] and len(found) < MOST_FEEDBACK:
        page = await service.my_feedback(who, page["next"], FEEDBACK_PAGE)
        found += page["data"]
    return found


def _turn(exchanges: list[dict[str, Any]], position: int | None) -> Turn:
    """The drafts of one prompt as they stood: two of one exchange side by side, else one after another."""
    replies = [
        Reply(
            index=reply["index"],
            exchange_id=exchange["id"],
            adapter=exchange["adapter"],
            text=reply["text"],
            finish_reason=reply["finish_reason"] or "stopped",
            kept=True,
            revisions=exchange.get("revisions", []),
        )
        for exchange in exchanges
        for reply in exchange["replies"]
    ]
    prompt = next((m["content"] for m in reversed(exchanges[0]["messages"]) if m.get("role") == "user"), "")
    pair, last = len(exchanges) == 1 and len(replies) == 2, len(replies) - 1
    if position is None:
        chosen = None if pair else last
    else:
        chosen = min(position, last)
    compared = (0, 1) if pair else (1, 0) if last == 1 else None
    asked = exchanges[-1]["messages"]
    return Turn(str(prompt), replies=replies, chosen=chosen, side_by_side=pair, compared=compared, asked=asked)


def _take_comparison(turn: Turn, in_force: list[dict[str, Any]]) -> None:
    """What was said of the two drafts that can be compared. Of more than two it alone tells which the last replaced."""
    last = len(turn.replies) - 1
    pairs = [turn.compared] if turn.compared else [(last, position) for position in range(last)]
    for stored in in_force:
        for pair in pairs:
            if _compares(stored, *(turn.replies[position] for position in pair)):
                turn.comparison, turn.compared = stored, pair
                return


def _compares(stored: dict[str, Any], a: Reply, b: Reply) -> bool:
    feedback = stored["feedback"]
    return feedback["kind"] == "comparison" and _names(feedback["a"], a) and _names(feedback["b"], b)


def _is_about(stored: dict[str, Any], reply: Reply) -> bool:
    return stored["feedback"]["kind"] in KINDS and _names(stored["feedback"], reply)


def _names(about: dict[str, Any], reply: Reply) -> bool:
    return (about.get("exchange_id"), about.get("index", 0)) == (reply.exchange_id, reply.index)
