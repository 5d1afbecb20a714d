"""Tokens counted by the engine that is to read them: it is asked for one token more, and tells the prompt's ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from service.chat.asking import Asking
from service.constitution.prompts import Message
from service.errors import ContextExceeded, EngineUnavailable
from service.routing import ALIAS, BASE, Route
from service.store.identifiers import new_id

AT_ONCE = 4
"""Requests at the same time: chats go on meanwhile."""
LONGEST_SAMPLE = 2_000
"""Characters."""


class TokenCount:
    """Of messages, as the base model's chat template puts them.

    What is longer than the context can't be asked about: that is estimated by how its beginning is put into tokens.
    """

    def __init__(self, asking: Asking, context: int) -> None:
        self._asking, self._context = asking, context
        self._conversation_id = new_id("count")  # so that all of it goes to one engine, whose prefix cache knows it
        self._room = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, messages: Sequence[Message]) -> int:
        """Raises what keeps an engine from answering."""
        async with self._room:
            try:
                return await self._counted(messages)
            except ContextExceeded:
                text = "".join(message["content"] for message in messages)
                sample = text[: min(self._context // 8, LONGEST_SAMPLE)]
                tokens = await self._counted([{"role": "user", "content": sample}])
                return max(self._context + 1, round(tokens * len(text) / len(sample)))

    async def _counted(self, messages: Sequence[Message]) -> int:
        model = await self._asking.base()
        body: dict[str, Any] = {"model": model, "messages": messages, "n": 1, "temperature": 0.0, "max_tokens": 1}
        recorded = await self._asking.text(Route(f"{ALIAS}:{BASE}", BASE), self._conversation_id, body)
        if not recorded.prompt_token_ids:
            raise EngineUnavailable("The engine doesn't tell the tokens of a prompt.")
        return len(recorded.prompt_token_ids)
