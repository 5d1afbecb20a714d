"""A reply of the engine that has begun: its first token has come, so no other engine can be asked any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Self

import orjson

from service.engine import DONE
from service.errors import EngineRefused, EngineUnavailable
from service.event_stream import EventStream


class ReplyStream:
    """Iterate it for the chunks of the reply, from the first one on; close it."""

    def __init__(self, events: EventStream, first: list[dict[str, Any]], rest: AsyncIterator[bytes]) -> None:
        self._events, self._first, self._rest = events, first, rest

    @classmethod
    async def begun(cls, events: EventStream) -> Self:
        """Read until a token has come. Raises EngineUnavailable, having closed the stream, when none comes."""
        first, rest = [], aiter(events)
        try:
            async for payload in rest:
                if payload == DONE:
                    break
                first.append(_chunk(payload))
                if _has_token(first[-1]):
                    return cls(events, first, rest)
            raise EngineUnavailable("The engine ended the reply before it began.", retry_after=1)
        except BaseException:
            await events.close()
            raise

    async def close(self) -> None:
        await self._events.close()

    async def __aiter__(self) -> AsyncGenerator[dict[str, Any]]:
        """Raises EngineUnavailable when the engine does not come to the end."""
        for chunk in self._first:
            yield chunk
        async for payload in self._rest:
            if payload == DONE:
                return
            yield _chunk(payload)
        raise EngineUnavailable("The engine broke off in the middle of the reply.")


def _chunk(payload: bytes) -> dict[str, Any]:
    """What an event of the engine says. Raises EngineUnavailable, or EngineRefused, when that is no part of a reply."""
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError:
        said = payload.decode(errors="replace")
    if isinstance(said, dict) and isinstance(said.get("choices"), list):
        return said
    error = said.get("error", said) if isinstance(said, dict) else said
    words = str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    status = error.get("code") if isinstance(error, dict) else None
    if isinstance(status, int) and 400 <= status < 500:
        raise EngineRefused(words, status)
    raise EngineUnavailable(f"The engine failed: {words}")


def _has_token(chunk: dict[str, Any]) -> bool:
    """The chunks before only say who speaks."""
    for choice in chunk["choices"]:
        if choice.get("token_ids") or choice.get("finish_reason") or (choice.get("delta") or {}).get("content"):
            return True
    return False
