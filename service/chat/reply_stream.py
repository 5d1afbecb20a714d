"""A reply of the engine that has begun: its first token has come, so no other engine can be asked any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Self

import orjson

from service.engine import DONE
from service.engine_connection import Connection
from service.errors import EngineRefused, EngineUnavailable


class ReplyStream:
    """Iterate what it `shows`; close it."""

    def __init__(self, answer: Connection, first: list[dict[str, Any]], rest: list[bytes]) -> None:
        self._answer, self._first, self._rest = answer, first, rest
        self._is_over = False

    @classmethod
    async def begun(cls, answer: Connection) -> Self:
        """Read until a token has come. Raises EngineUnavailable, having closed the stream, when none comes."""
        first: list[dict[str, Any]] = []
        try:
            while payloads := await answer.events():
                for number, payload in enumerate(payloads, 1):
                    if payload == DONE:
                        break
                    first.append(_chunk(payload))
                    if _has_token(first[-1]):
                        return cls(answer, first, payloads[number:])
            raise EngineUnavailable("The engine ended the reply before it began.", retry_after=1)
        except BaseException:
            answer.close()
            raise

    def close(self) -> None:
        if self._is_over:
            self._answer.leave()
        else:
            self._answer.close()

    async def shown(self, show: Callable[[dict[str, Any]], bytes]) -> AsyncGenerator[bytes, None]:
        """What `show` makes of each chunk; of those that came together, in one piece.

        Raises EngineUnavailable, after all that came before, when the engine does not come to the end.
        """
        pieces, payloads = [show(chunk) for chunk in self._first], self._rest
        while True:
            self._is_over = DONE in payloads
            try:
                for payload in payloads:
                    if payload != DONE:
                        pieces.append(show(_chunk(payload)))
            except Exception:
                if pieces:
                    yield b"".join(pieces)
                raise
            if pieces:
                yield b"".join(pieces)
                pieces.clear()
            if self._is_over:
                return
            payloads = await self._answer.events()
            if not payloads:
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
