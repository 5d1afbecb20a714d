"""A constitution tried out on one prompt, principle by principle, before it takes effect. Nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from service.chat.asking import Asking, engine_model
from service.chat.recording import RecordedReply
from service.chat.request import ChatRequest
from service.constitution.principles import Constitution, Principle
from service.constitution.prompts import Message, critique_messages, read_verdict, revision_messages, verdict_messages
from service.errors import HoneError
from service.routing import ALIAS, Route
from service.settings import ChatSettings
from service.store.identifiers import new_id
from service.wire import PrincipleTrial

AT_ONCE = 4
"""Principles that are asked about at the same time: chats go on meanwhile."""
VERDICT_TOKENS = 16


class Trial:
    """One prompt, answered once by what `route` leads to; then each principle looks at that draft."""

    def __init__(
        self, asking: Asking, route: Route, base: str, chat: ChatSettings, critique_tokens: int, prompt: str
    ) -> None:
        self._asking, self._route, self._model = asking, route, engine_model(route, base)
        self._conversation: list[Message] = [{"role": "user", "content": prompt}]
        asked = ChatRequest.model_validate({"model": ALIAS, "messages": self._conversation})
        self._sampling = asked.sampling(chat)
        self._greedy: dict[str, Any] = {"n": 1, "temperature": 0.0, "max_tokens": critique_tokens}
        self._conversation_id = new_id("trial")  # so that all of it goes to one engine
        self._room = asyncio.Semaphore(AT_ONCE)

    async def draft(self) -> str:
        """Raises as a chat does."""
        return await self._say(self._conversation, self._sampling)

    async def under_each(
        self, constitution: Constitution, principles: Sequence[Principle], draft: str
    ) -> tuple[PrincipleTrial, ...]:
        """What each of them makes of the draft."""
        return tuple(await asyncio.gather(*(self._under(constitution, one, draft) for one in principles)))

    async def _under(self, constitution: Constitution, principle: Principle, draft: str) -> PrincipleTrial:
        critique, revision, verdict, problem = "", None, None, ""
        async with self._room:
            try:
                asked = critique_messages(constitution, principle, self._conversation, draft)
                critique = await self._say(asked, self._greedy)
                if not constitution.finds_nothing(critique):
                    asked = revision_messages(constitution, principle, self._conversation, draft, critique)
                    revision = await self._say(asked, self._sampling)
                    verdict = await self._verdict(constitution, principle, draft, revision)
            except HoneError as error:
                problem = str(error)
        return PrincipleTrial(
            principle=principle.name, critique=critique, revision=revision, verdict=verdict, problem=problem
        )

    async def _verdict(self, constitution: Constitution, principle: Principle, draft: str, revision: str) -> Any:
        """Asked in both orders: one that depends on the order is none."""
        sampling = self._greedy | {"max_tokens": VERDICT_TOKENS}
        orders = ((draft, revision), (revision, draft))
        said = [
            await self._say(verdict_messages(constitution, principle, self._conversation, *order), sampling)
            for order in orders
        ]
        letters = tuple(read_verdict(constitution, one) for one in said)
        return {("A", "B"): "draft", ("B", "A"): "revision"}.get(letters, "undecided")  # type: ignore[arg-type]

    async def _say(self, messages: Sequence[Message], sampling: dict[str, Any]) -> str:
        body = {"model": self._model, "messages": messages, **sampling}
        recorded = await self._asking.text(self._route, self._conversation_id, body)
        return recorded.replies.get(0, RecordedReply()).text.strip()
