"""A request that has been routed, and the exchange that becomes of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from service.chat.asking import engine_model
from service.chat.best_of import BestOf
from service.chat.constitutional import Rules
from service.chat.recording import RecordedReply, Recording
from service.chat.request import ChatRequest
from service.routing import Route
from service.store.queries import exchanges


@dataclass(frozen=True)
class Turn:
    """A request that has been routed and is ready for the engine."""

    request: ChatRequest
    caller: str
    conversation_id: str
    route: Route
    base: str
    base_sha256: str | None
    sampling: dict[str, Any]
    recording: Recording
    best_of: BestOf | None = None
    rules: Rules | None = None

    @property
    def fills(self) -> bool:
        """Whether the reply's length is a default of ours, and an engine may fill what is left of its context."""
        return not self.request.names_a_length

    @property
    def engine_body(self) -> dict[str, Any]:
        body = self.request.engine_body(engine_model(self.route, self.base), self.sampling)
        if self.best_of is not None:
            body.pop("stream_options", None)  # all samples come whole
            body["n"] = self.best_of.samples
        return body


def conversation_of(request: ChatRequest, caller: str) -> str:
    """The conversation that the caller names; else one made from how it begins.

    Plain OpenAI clients send the whole history every time and no id: its opening is the same in every turn.
    """
    if request.hone is not None and request.hone.conversation_id is not None:
        return request.hone.conversation_id
    length = next((number for number, message in enumerate(request.messages, 1) if message.role == "user"), None)
    opening = orjson.dumps([caller, request.engine_messages[:length]])
    return "conv-" + hashlib.sha256(opening).hexdigest()[:32]


def stored_exchange(turn: Turn) -> exchanges.NewExchange:
    """What is kept of it, as far as it came."""
    recording = turn.recording
    choices = range(turn.sampling["n"])
    return exchanges.NewExchange(
        id=recording.exchange_id,
        caller=turn.caller,
        conversation_id=turn.conversation_id,
        model=turn.route.alias,
        adapter=turn.route.adapter,
        base=turn.base,
        base_sha256=turn.base_sha256,
        messages=turn.request.engine_messages,
        sampling=turn.sampling,
        prompt_token_ids=recording.prompt_token_ids,
        replies=[reply_of(recording.replies.get(index, RecordedReply())) for index in choices],
        complete=recording.complete,
        best_of=turn.best_of.samples if turn.best_of is not None else None,
    )


def reply_of(reply: RecordedReply) -> exchanges.NewReply:
    """As the store takes it."""
    return exchanges.NewReply(reply.text, reply.finish_reason, reply.token_ids, reply.logprobs)
