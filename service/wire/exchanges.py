"""Chats beside the OpenAI schema: Hone's own part of a request, exchanges as they are stored, and their scores."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from service.wire.feedback import Judgement
from service.wire.fields import ConversationId, Id, Wire


class HoneOptions(Wire):
    """Hone's own part of a chat request: the body's `hone` object."""

    conversation_id: ConversationId | None = Field(None, description="Keeps a conversation on one adapter.")


class StoredReply(Wire):
    index: int
    text: str
    finish_reason: str | None
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class StoredExchange(Wire):
    id: str
    created_at: datetime
    conversation_id: str
    model: str = Field(description="The alias that was asked for.")
    adapter: str = Field(description="What answered: a version, or `base`.")
    messages: tuple[dict[str, Any], ...]
    sampling: dict[str, Any]
    best_of: int | None = Field(
        None,
        description="The replies are those that the adapter's judge liked best of so many samples; null: nothing that "
        "was sampled is missing. Log-probabilities are the adapter's for one draw, not those of being chosen.",
    )
    prompt_token_ids: tuple[int, ...]
    replies: tuple[StoredReply, ...]


class ScoreRequest(Judgement):
    """How probable another model finds the replies of an exchange."""

    exchange_id: Id
    model: Id = "hone:base"


class ScoreResponse(Wire):
    model: str
    adapter: str
    token_logprobs: tuple[tuple[float, ...], ...] = Field(
        description="For each reply, the natural log-probability of each token."
    )
