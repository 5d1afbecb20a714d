"""A reply of the engine that has begun: its first token has come, so no other engine can be asked any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import orjson

from service.engine import DONE, EngineFailed, unless_aborted
from service.engine_connection import Connection
from service.errors import EngineRefused, EngineUnavailable


class ReplyStream:
    """Ask for its pieces until there are no more; close it."""

    def __init__(self, answer: Connection, received: Sequence[dict[str, Any] | bytes]) -> None:
        """`received`: what has come already: chunks, and then the payloads of events that nobody has parsed yet."""
        self._answer, self._received = answer, received
        self._is_over = False
        self._failure: Exception | None = None

    @classmethod
    async def begun(cls, answer: Connection) -> Self:
        """Read until a token has come. Raises EngineUnavailable, having closed the stream, when none comes."""
        chunks: list[dict[str, Any]] = []
        try:
            while payloads := await answer.events():
                for at, payload in enumerate(payloads, 1):
                    if payload == DONE:
                        break
                    chunks.append(_chunk(payload))
                    if _has_token(chunks[-1]):
                        return cls(answer, [*chunks, *payloads[at:]])
            raise EngineUnavailable("The engine ended the reply before it began.", retry_after=1)
        except BaseException:
            answer.close()
            raise

    def close(self) -> None:
        if self._is_over:
            self._answer.leave()
        else:
            self._answer.close()

    async def piece(self, show: Callable[[dict[str, Any]], bytes]) -> bytes:
        """What `show` makes of the chunks that have come since the piece before; empty at the end.

        Raises EngineUnavailable, after all that came before, when the engine does not come to the end.
        """
        if self._failure is not None:
            raise self._failure
        shown: list[bytes] = []
        while not shown and not self._is_over:
            received, self._received = self._received or await self._answer.events(), ()
            if not received:
                raise EngineUnavailable("The engine broke off in the middle of the reply.")
            try:
                for one in received:
                    if one == DONE:
                        self._is_over = True
                    else:
                        shown.append(show(_chunk(one) if isinstance(one, bytes) else one))
            except Exception as error:
                if not shown:
                    raise
                self._failure = error
        return b"".join(shown)


def _chunk(payload: bytes) -> dict[str, Any]:
    """What an event of the engine says. Raises EngineUnavailable, or EngineRefused, when that is no part of a reply.

    An aborted reply is one that the engine went away from: neither a token nor an end.
    """
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError:
        said = payload.decode(errors="replace")
    if isinstance(said, dict) and isinstance(said.get("choices"), list):
        return unless_aborted(said)
    error = said.get("error", said) if isinstance(said, dict) else said
    words = str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    status = error.get("code") if isinstance(error, dict) else None
    if isinstance(status, int) and 400 <= status < 500:
        raise EngineRefused(words, status)
    raise EngineFailed(status if isinstance(status, int) else 500, words)


def _has_token(chunk: dict[str, Any]) -> bool:
    """The chunks before only say who speaks."""
    for choice in chunk["choices"]:
        if choice.get("token_ids") or choice.get("finish_reason") or (choice.get("delta") or {}).get("content"):
            return True
    return False
