"""The model that answers a chat, asked by the constitution: to criticise, to revise, and which reply is better.

Chats and trials ask alike, so that a trial shows what a chat would be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.chat.asking import Asking, engine_model
from service.chat.constitutional import Progress, Tell
from service.chat.recording import RecordedReply, Recording
from service.chat.turn import reply_of
from service.constitution import Constitution
from service.constitution.odds import letter_log_probs, share_of_a, up_to_the_letter
from service.constitution.prompts import Message
from service.errors import EngineUnavailable
from service.routing import Route
from service.side_by_side import side_by_side
from service.store.queries.exchanges import NewReply

NO_VERDICT = "The verdict on the revision is neither A nor B."


@dataclass
class Critic:
    """Of one reply. `fills`: a reply's length is a default of ours, as in `ask_engine`; `tell` hears what is being
    written."""

    asking: Asking
    route: Route
    base: str
    conversation_id: str
    constitution: Constitution
    fills: bool
    tell: Tell | None = None
    written: int = 0
    """Tokens of critiques and revisions."""

    async def draft(self, body: dict[str, Any], recording: Recording | None = None) -> Recording:
        """`recording` as in `Asking.text`. Raises what keeps an engine from answering."""
        told = _teller(self.tell, Progress("draft"))
        return await self.asking.text(self.route, self.conversation_id, body, told, self.fills, recording=recording)

    async def ask(self, messages: Sequence[Message], sampling: dict[str, Any], progress: Progress | None) -> NewReply:
        """As `service.chat.constitutional.Ask` says."""
        body = {"model": engine_model(self.route, self.base), "messages": messages, **sampling}
        is_reply = progress is not None and progress.stage == "revision"
        told = _teller(self.tell, progress)
        said = await self.asking.text(
            self.route, self.conversation_id, body, told, fills=self.fills and is_reply, is_admitted=True
        )
        reply = said_first(said)
        self.written += len(reply.token_ids)
        return replace(reply, logprobs=())  # it was sampled after another prompt than the person's

    async def judge(self, requests: Sequence[Sequence[Message]], progress: Progress) -> list[float]:
        """As `service.chat.constitutional.Judge` says."""
        _teller(self.tell, progress)
        return await side_by_side(map(self._odds, requests))

    async def _odds(self, messages: Sequence[Message]) -> float:
        begun = up_to_the_letter(self.constitution, messages)
        body = {"model": engine_model(self.route, self.base), "messages": begun}
        found = letter_log_probs(await self.asking.next_tokens(self.route, self.conversation_id, body))
        if not found:
            raise EngineUnavailable(NO_VERDICT)
        return share_of_a(found)


def said_first(recording: Recording) -> NewReply:
    """Its one reply."""
    return reply_of(recording.replies.get(0, RecordedReply()))


def _teller(tell: Tell | None, progress: Progress | None) -> Callable[[str], None] | None:
    """Tells that a text begins, now, and then what is written of it."""
    if tell is None or progress is None:
        return None
    tell(progress)
    return lambda said: tell(replace(progress, text=said))
