"""Chats beside the OpenAI schema: Hone's own part of a request, exchanges as they are stored, and their scores."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.wire.feedback import Judgement
from service.wire.fields import ConversationId, Id, Truth, Wire


class HoneOptions(Wire):
    """Hone's own part of a chat request: the body's `hone` object."""

    conversation_id: ConversationId | None = Field(None, description="Keeps a conversation on one adapter.")
    constitutional: Truth | None = Field(
        None,
        description="Whether the reply is drafted, criticised under the constitution's principles, and revised; null: "
        "as `constitution.serve` says.",
    )


class StoredReply(Wire):
    index: int
    text: str
    finish_reason: str | None
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class StoredRevision(Wire):
    """One critique of a reply under one principle, and what came of it, before it was answered."""

    round: int
    constitution: str = Field(description="The version: `c0` comes with Hone.")
    constitution_sha256: str
    principle: str
    critique: str
    before: str = Field(description="What was criticised: the draft, or the revision before.")
    after: str | None = Field(description="The revision; null: there was none, or none that was judged.")
    odds: float | None = Field(
        description="That `after` is better than `before`, by the principle's verdict, asked in both orders; above ½ "
        "it took its place. null: there was no verdict."
    )
    ended: Literal["revised", "no better", "nothing wrong", "out of time", "failed"] = Field(
        description="no better: the verdict did not prefer the revision, and the text before it stayed."
    )
    problem: str = Field(description="Why it failed.")
    seconds: float


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
    revisions: tuple[StoredRevision, ...] = Field(
        (),
        description="How the reply came about, where the constitution was asked: from the draft to what was answered. "
        "A revised reply has no log-probabilities, as it was sampled after another prompt.",
    )


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
