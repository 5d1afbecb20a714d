"""Feedback, one tagged union: `kind` says which of the seven kinds of judgement it is.

Every reply is named by the exchange that holds it and its index in there, so that a judgement is for ever bound to
adapter, settings and tokens.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from service.wire.fields import MAX_NAME, Comment, Id, Storable, Text, Truth, Whole, Wire, not_blank

MAX_RANKED = 64
"""Replies in one ranking: the learner compares each with each."""
MAX_LABELS = 32
LabelName = Annotated[str, Field(min_length=1, max_length=64), Storable, AfterValidator(not_blank)]


class ReplyRef(Wire):
    """One reply: the `index`-th choice of an exchange."""

    exchange_id: Id
    index: Whole = Field(0, ge=0)


class Judgement(Wire):
    """`user` tells callers on one machine apart (see service.auth); it is no part of what is stored."""

    user: Annotated[str, Field(max_length=MAX_NAME), Storable] | None = Field(None, exclude=True)


class _AboutOneReply(Judgement):
    exchange_id: Id
    index: Whole = Field(0, ge=0, description="Which choice of the exchange.")
    comment: Comment | None = None


class Thumb(_AboutOneReply):
    kind: Literal["thumb"] = "thumb"
    good: Truth


class Score(_AboutOneReply):
    kind: Literal["score"] = "score"
    score: Whole = Field(ge=1, le=10)


class Label(_AboutOneReply):
    kind: Literal["label"] = "label"
    labels: tuple[LabelName, ...] = Field(min_length=1, max_length=MAX_LABELS)


class Critique(_AboutOneReply):
    kind: Literal["critique"] = "critique"
    text: Text


class Correction(_AboutOneReply):
    """The reply as it should have been. One that equals the reply is refused."""

    kind: Literal["correction"] = "correction"
    text: Text


class Comparison(Judgement):
    """Two replies to one prompt, of one exchange or of two with the same messages."""

    kind: Literal["comparison"] = "comparison"
    a: ReplyRef
    b: ReplyRef
    verdict: Literal["a", "b", "tie", "both_bad"]
    strength: Whole = Field(1, ge=1, le=3, description="1 slightly, 2 clearly, 3 far better.")
    comment: Comment | None = None

    @model_validator(mode="after")
    def _two_replies(self) -> Comparison:
        if self.a == self.b:
            raise ValueError("both name the same reply; compare two different ones")
        return self


class Ranking(Judgement):
    """An order of replies to one prompt, best first; replies in one inner list are tied; `failed` ones are unusable."""

    kind: Literal["ranking"] = "ranking"
    order: tuple[tuple[ReplyRef, ...], ...] = ()
    failed: tuple[ReplyRef, ...] = ()
    comment: Comment | None = None

    @model_validator(mode="after")
    def _ranks_something(self) -> Ranking:
        refs = [ref for group in self.order for ref in group] + list(self.failed)
        if any(not group for group in self.order):
            raise ValueError("a group of the order is empty")
        if not 2 <= len(refs) <= MAX_RANKED:
            raise ValueError(f"a ranking is of 2 to {MAX_RANKED} replies")
        if len(set(refs)) != len(refs):
            raise ValueError("a reply stands in the ranking twice")
        return self


OneOfTheKinds = Thumb | Score | Label | Critique | Correction | Comparison | Ranking
Feedback = Annotated[OneOfTheKinds, Field(discriminator="kind")]
FEEDBACK: TypeAdapter[Feedback] = TypeAdapter(Feedback)
TEACHING_KINDS = ("thumb", "comparison", "ranking", "score", "correction", "critique")
"""Those that a learning method uses. The others are kept, and start no run."""
FEEDBACK_KINDS = ("thumb", "comparison", "ranking", "score", "correction", "label", "critique")


def replies_named(feedback: Feedback) -> tuple[ReplyRef, ...]:
    """Every reply that a feedback is about, in the order it names them."""
    if isinstance(feedback, Comparison):
        return (feedback.a, feedback.b)
    if isinstance(feedback, Ranking):
        return tuple(ref for group in feedback.order for ref in group) + feedback.failed
    return (ReplyRef(exchange_id=feedback.exchange_id, index=feedback.index),)


class StoredFeedback(Wire):
    """A feedback as the store holds it.

    `considered`: a run that has ended saw it, whether it learned from it or left it out.
    """

    id: str
    created_at: datetime
    updated_at: datetime
    withdrawn: bool
    feedback: Feedback
    learned_in: tuple[str, ...] = Field(
        (),
        description="The first and the newest adapter that passed its gates and was trained on it as it stands now; "
        "one where they are the same.",
    )
    considered: bool = False


class FeedbackStats(Wire):
    total: int
    withdrawn: int
    by_kind: dict[str, int]
    people: int
    since_last_run: int = Field(description="Of the kinds that a learning method uses.")
