"""Drafting a reply: from the service's stream into the conversation, at the pace of a page.

One task reads the stream; the page is redrawn at most every `FRAME` seconds, so that a fast engine does not flood the
browser. Stopping closes the stream, which frees the engine's slot; what was written until then stays on the page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from math import inf

from ui.client import Credentials, ServiceClient, ServiceError
from ui.conversation import Conversation, Reply, Turn, messages

FRAME = 0.04  # seconds
COMMIT = 1.0  # seconds that the service may take to store what was stopped
PROMPT_SHARE = 0.75
"""How much of the model's context a conversation may fill, so that room is left for the reply."""
TOO_LONG = "context_length_exceeded"
FORGETTING = "This conversation is longer than the model can read at once: it no longer sees the oldest messages."


async def draft(
    service: ServiceClient, who: Credentials, talk: Conversation, turn: Turn, count: int
) -> AsyncIterator[None]:
    """Append `count` drafts to `turn` as they stream; yield whenever there is something new to draw."""
    drafts = [Reply(index=index) for index in range(count)]
    turn.replies += drafts
    talk.busy, talk.stop, turn.error = True, asyncio.Event(), ""
    refused = ""
    reader = asyncio.create_task(_read(service, who, talk, turn, drafts))
    stopped = asyncio.create_task(talk.stop.wait())
    try:
        drawn = None
        while not reader.done() and not stopped.done():
            if (written := [reply.written for reply in drafts]) != drawn:
                drawn = written
                yield None
            await asyncio.wait({reader, stopped}, timeout=FRAME, return_when=asyncio.FIRST_COMPLETED)
        if reader.done():
            await reader  # raises what went wrong in it
    except ServiceError as error:
        turn.error, refused = error.message, error.code
    finally:
        for task in (reader, stopped):
            task.cancel()
        talk.busy, talk.stop = False, None
        with suppress(asyncio.CancelledError, ServiceError):
            await reader
        _finish(turn, drafts)
    if refused == TOO_LONG and not turn.replies and turn in talk.turns:
        talk.take_back(turn, f"Your message is too long: {len(turn.prompt):,} characters. {turn.error}")
    await _mark_kept(service, who, drafts)
    yield None


async def _read(service: ServiceClient, who: Credentials, talk: Conversation, turn: Turn, drafts: list[Reply]) -> None:
    """Ask with as much of the conversation as fits: as far as it can be foretold, and then as the service says.

    Another draft is asked for with the messages of the one before: only so can the two be compared.
    """
    if turn.asked:
        return await _take(service, who, talk, turn.asked, drafts, talk.seen_from)
    whole = talk.turns_before(turn)
    seen = talk.turns_before(turn, await _room(service, who, talk))
    while True:
        seen_from = (seen[0] if seen else turn).key if len(seen) < len(whole) else ""
        turn.asked = messages(seen, turn.prompt)
        try:
            return await _take(service, who, talk, turn.asked, drafts, seen_from)
        except ServiceError as error:
            if error.code != TOO_LONG or not seen:
                raise
            seen = seen[-(-len(seen) // 2) :]


async def _room(service: ServiceClient, who: Credentials, talk: Conversation) -> float:
    """How many characters of conversation fit, by how many tokens they took so far."""
    context = await service.context(who) if talk.tokens_per_character else None
    return PROMPT_SHARE * context / talk.tokens_per_character if context else inf


async def _take(
    service: ServiceClient,
    who: Credentials,
    talk: Conversation,
    asked: list[dict[str, str]],
    drafts: list[Reply],
    seen_from: str,
) -> None:
    by_principles = talk.by_principles and len(drafts) == 1
    async with aclosing(service.chat(who, asked, talk.identify(), len(drafts), by_principles)) as deltas:
        async for delta in deltas:
            if seen_from and not talk.seen_from:  # told only now: what is asked is not refused
                talk.say(FORGETTING)
            talk.seen_from = seen_from
            drafts[delta.index].take(delta)
            if delta.prompt_tokens:
                characters = sum(len(message["content"]) for message in asked)
                talk.tokens_per_character = delta.prompt_tokens / max(1, characters)


def _finish(turn: Turn, drafts: list[Reply]) -> None:
    """Every draft ends, and those that never began leave no trace."""
    for reply in drafts:
        reply.finish_reason = reply.finish_reason or ("broken off" if turn.error else "stopped")
    begun = [reply for reply in drafts if reply.text or (reply.exchange_id and not reply.stages)]
    turn.replies = [reply for reply in turn.replies if reply not in drafts or reply in begun]
    if len(begun) < 2:
        turn.side_by_side, turn.compared = False, None
        turn.chosen = len(turn.replies) - 1 if turn.replies else None
    if not turn.replies:
        turn.asked = []


async def _mark_kept(service: ServiceClient, who: Credentials, drafts: list[Reply]) -> None:
    """A finished reply is in the store, and one that was stopped in a moment: ask, since feedback needs it there."""
    for reply in drafts:
        if reply.finish_reason in ("stop", "length"):
            reply.kept = True
            if reply.stages:
                await _learn_how_it_was_made(service, who, reply)
        elif reply.exchange_id:
            patience = COMMIT if reply.finish_reason == "stopped" and reply.text else 0.0
            reply.kept = reply.index in await _stored(service, who, reply.exchange_id, patience)


async def _learn_how_it_was_made(service: ServiceClient, who: Credentials, reply: Reply) -> None:
    """Draft, critiques and revisions as the service keeps them; without, the reply is there all the same."""
    with suppress(ServiceError):
        reply.revisions = (await service.exchange(who, str(reply.exchange_id))).get("revisions", [])


async def _stored(service: ServiceClient, who: Credentials, exchange_id: str, patience: float) -> list[int]:
    """Which replies of an exchange the service holds; one that it doesn't know yet is asked for again."""
    deadline = time.monotonic() + patience
    while True:
        try:
            exchange = await service.exchange(who, exchange_id)
        except ServiceError as error:
            if error.status != 404 or time.monotonic() >= deadline:
                return []
            await asyncio.sleep(FRAME)
        else:
            return [reply["index"] for reply in exchange["replies"]]
