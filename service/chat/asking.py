"""Asking an engine for one text: whole, or told of as it comes, by whichever engine serves the adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, TypeVar

from service.adapters.rollout import Rollout
from service.chat.recording import Recording
from service.chat.reply_stream import ReplyStream
from service.engine import Engine
from service.errors import AdapterBroken, ContextExceeded, EngineUnavailable
from service.replicas import Replicas
from service.routing import ALIAS, BASE, Route

TAKEN_OVER = "The version that was to answer can't be served any more. Another takes over now; try again in a moment."
NEXT_TOKENS = 20
"""Of which an engine tells how likely they are: as many as vLLM does where it isn't told otherwise."""
T = TypeVar("T")


class Asking:
    def __init__(self, replicas: Replicas, rollout: Rollout) -> None:
        self._replicas, self._rollout = replicas, rollout

    async def base(self) -> str:
        """The base model's name, as the engines know it. Raises EngineUnavailable."""
        return await self._replicas.base()

    @asynccontextmanager
    async def answering(
        self, route: Route, conversation_id: str, begin: Callable[[Engine], Awaitable[T]], is_admitted: bool = False
    ) -> AsyncIterator[T]:
        """What `begin` brings. If what is live, or the canary, turns out to be broken, the rollout sees to another."""
        try:
            async with self._replicas.answering(route.adapter, conversation_id, begin, is_admitted) as begun:
                yield begun
        except AdapterBroken as error:
            if route.alias != ALIAS:
                raise
            self._rollout.wake()
            raise EngineUnavailable(TAKEN_OVER, retry_after=1) from error

    async def text(
        self,
        route: Route,
        conversation_id: str,
        body: dict[str, Any],
        told: Callable[[str], None] | None = None,
        fills: bool = False,
        is_admitted: bool = False,
        recording: Recording | None = None,
    ) -> Recording:
        """One text, whole. `told` hears of it piece by piece; `fills` as in `ask_engine`; `recording` has what came of
        it, also where it breaks off.

        `is_admitted`: it belongs to a reply that the engines had room for, and is not turned away when they are full.
        """
        recording = recording or text_alone(route)
        if told is None:
            async with self.answering(
                route, conversation_id, lambda engine: ask_engine(engine.chat, body, fills), is_admitted
            ) as answer:
                recording.take(answer)
            return recording

        async def begin(engine: Engine) -> ReplyStream:
            return await ReplyStream.begun(await ask_engine(engine.chat_stream, body, fills))

        def keep(chunk: dict[str, Any]) -> bytes:
            said = "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk["choices"])
            recording.take(chunk)
            if said:
                told(said)
            return b"."

        async with self.answering(route, conversation_id, begin, is_admitted) as reply:
            with closing(reply):
                while await reply.piece(keep):
                    pass
        return recording

    async def next_tokens(self, route: Route, conversation_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """What might come next in the last message of `body`, which is begun: the likeliest token, and `top_logprobs`
        beside it. It belongs to a reply that the engines had room for. Empty where an engine tells none."""
        body = {**body, "max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": NEXT_TOKENS,
                "add_generation_prompt": False, "continue_final_message": True}  # fmt: skip
        async with self.answering(
            route, conversation_id, lambda engine: ask_engine(engine.chat, body, fills=False), is_admitted=True
        ) as answer:
            told = (answer["choices"][0].get("logprobs") or {}).get("content") or [{}]
        found: dict[str, Any] = told[0]
        return found


def text_alone(route: Route) -> Recording:
    """Of a text that is no exchange by itself."""
    return Recording("", route.model, route.adapter, show_logprobs=False, show_token_ids=False)


def engine_model(route: Route, base: str) -> str:
    """What the engines call the model that a route leads to."""
    return base if route.adapter == BASE else route.adapter


async def ask_engine(ask: Callable[[dict[str, Any]], Awaitable[T]], body: dict[str, Any], fills: bool) -> T:
    """Ask an engine; once more where its refusal can be helped.

    `fills`: the length is a default of ours, which must not make a request fail. Where only that asks for too much, the
    engine fills what is left.
    """
    try:
        return await ask(body)
    except ContextExceeded:
        if not fills:
            raise
    return await ask({name: value for name, value in body.items() if name != "max_tokens"})
