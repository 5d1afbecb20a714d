"""The HTTP API's requests and responses, beside the OpenAI chat schema, whose body is passed on with its own checks.

A file for each thing that people and programs talk to the service about; `fields` is what these are made of.
"""

from __future__ import annotations

from service.wire.adapters import (
    AdapterEvent,
    AdapterView,
    CanaryRequest,
    PromoteRequest,
    RejectRequest,
    RollbackRequest,
    ServingView,
)
from service.wire.callers import SessionToken, WhoAmI
from service.wire.constitution import (
    ConstitutionRequest,
    ConstitutionVersion,
    ConstitutionView,
    PrincipleTrial,
    PrincipleView,
    TryRequest,
    TryResult,
)
from service.wire.exchanges import (
    HoneOptions,
    ScoreRequest,
    ScoreResponse,
    StoredExchange,
    StoredReply,
    StoredRevision,
)
from service.wire.feedback import (
    FEEDBACK,
    FEEDBACK_KINDS,
    TEACHING_KINDS,
    Comparison,
    Correction,
    Critique,
    Feedback,
    FeedbackStats,
    Label,
    OneOfTheKinds,
    Ranking,
    ReplyRef,
    Score,
    StoredFeedback,
    Thumb,
    replies_named,
)
from service.wire.fields import MAX_NAME, Fraction, Page, Truth, Whole, storable
from service.wire.runs import LearnRequest, RunView

__all__ = [
    "FEEDBACK", "FEEDBACK_KINDS", "MAX_NAME", "TEACHING_KINDS", "AdapterEvent", "AdapterView", "CanaryRequest",
    "Comparison", "ConstitutionRequest", "ConstitutionVersion", "ConstitutionView", "Correction", "Critique",
    "Feedback", "FeedbackStats", "Fraction", "HoneOptions", "Label", "LearnRequest", "OneOfTheKinds", "Page",
    "PrincipleTrial", "PrincipleView", "PromoteRequest", "Ranking", "RejectRequest", "ReplyRef", "RollbackRequest",
    "RunView", "Score", "ScoreRequest", "ScoreResponse", "ServingView", "SessionToken", "StoredExchange",
    "StoredFeedback", "StoredReply", "StoredRevision", "Thumb", "Truth", "TryRequest", "TryResult", "WhoAmI", "Whole",
    "replies_named", "storable",
]  # fmt: skip
