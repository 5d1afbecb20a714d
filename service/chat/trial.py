"""A constitution tried out on one prompt, principle by principle, before it takes effect. Nothing is stored.

Each principle looks at the draft as it would in a chat (`service.chat.constitutional.Look`), so what a verdict prefers
here is what a chat would be answered.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from service.chat.asking import Asking, engine_model
from service.chat.constitutional import EVEN, Look, Rules
from service.chat.critic import Critic, said_first
from service.chat.request import ChatRequest
from service.constitution.principles import Principle
from service.constitution.prompts import Message
from service.routing import ALIAS, Route
from service.settings import ChatSettings
from service.store.identifiers import new_id
from service.store.queries.exchanges import NewReply
from service.store.queries.revisions import NewRevision
from service.wire import PrincipleTrial

AT_ONCE = 4
"""Principles that are asked about at the same time: chats go on meanwhile."""


class Trial:
    """One prompt, answered once by what `route` leads to; then each principle of `rules` looks at that draft."""

    def __init__(self, asking: Asking, route: Route, base: str, chat: ChatSettings, rules: Rules, prompt: str) -> None:
        self._rules, self._model = rules, engine_model(route, base)
        self._conversation: list[Message] = [{"role": "user", "content": prompt}]
        asked = ChatRequest.model_validate({"model": ALIAS, "messages": self._conversation})
        self._sampling = asked.sampling(chat)
        conversation_id = new_id("trial")  # so that all of it goes to one engine
        self._critic = Critic(asking, route, base, conversation_id, rules.version.constitution, fills=True)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def draft(self) -> NewReply:
        """Raises as a chat does."""
        body = {"model": self._model, "messages": self._conversation, **self._sampling}
        return said_first(await self._critic.draft(body))

    async def under_each(self, draft: NewReply) -> tuple[PrincipleTrial, ...]:
        """What each of them makes of the draft."""
        return tuple(await asyncio.gather(*(self._under(one, draft) for one in self._rules.principles)))

    async def _under(self, principle: Principle, draft: NewReply) -> PrincipleTrial:
        critic = self._critic
        look = Look(self._rules, principle, 1, self._conversation, draft, critic.ask, critic.judge, self._sampling)
        async with self._room:
            found = await look.taken(deadline=None)
        return PrincipleTrial(
            principle=principle.name,
            critique=found.critique.strip(),
            revision=found.after.text.strip() if found.after is not None else None,
            verdict=_verdict(found),
            odds=found.odds,
            problem=found.problem,
        )


def _verdict(found: NewRevision) -> Literal["draft", "revision", "undecided"] | None:
    """Which of the two a chat would be answered by; undecided: the draft, too, though nothing speaks for it."""
    if found.odds is None:
        return None
    if found.odds == EVEN:
        return "undecided"
    return "revision" if found.odds > EVEN else "draft"
