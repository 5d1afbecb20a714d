"""The HTTP API's requests and responses, beside the OpenAI chat schema, whose body is passed on with its own checks.

Feedback is one tagged union: `kind` says which of the seven kinds of judgement it is. Every reply is named by the
exchange that holds it and its index in there, so that a judgement is for ever bound to adapter, settings and tokens.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from service.settings import Method


def storable(text: str) -> str:
    """Refuse what no database's text can hold: NUL, and halves of surrogate pairs."""
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "holds a NUL character, which can't be stored")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_unicode", "holds half a surrogate pair, which is no character") from None
    return text


def not_blank(text: str) -> str:
    """Refuse what says nothing: as a correction it would teach the model to say nothing."""
    if not text.strip():
        raise PydanticCustomError("blank", "is blank, so it says nothing")
    return text


def fit_for_a_header(text: str) -> str:
    """Refuse what an HTTP header can't carry."""
    if not (text.isascii() and text.isprintable()):
        raise PydanticCustomError("no_header", "is told back in a header, so it must be of printable ASCII characters")
    return text


MAX_NAME = 128
"""Characters in the name of a caller: it is part of indexes, whose entries databases bound."""
MAX_RANKED = 64
"""Replies in one ranking: the learner compares each with each."""
MAX_LABELS = 32

Storable = AfterValidator(storable)
Id = Annotated[str, Field(min_length=1, max_length=128), Storable]
ConversationId = Annotated[Id, AfterValidator(fit_for_a_header)]
Text = Annotated[str, Field(min_length=1, max_length=100_000), Storable, AfterValidator(not_blank)]
LabelName = Annotated[str, Field(min_length=1, max_length=64), Storable, AfterValidator(not_blank)]
Comment = Annotated[str, Field(max_length=10_000), Storable]
Reason = Annotated[str, Field(max_length=2_000), Storable]


def a_json_number(value: object) -> object:
    """Refuse a number in quotes, and true and false, which Python would count as 1 and 0."""
    if isinstance(value, str | bool):
        raise PydanticKnownError("int_type")
    return value


def a_json_fraction(value: object) -> object:
    """The same for a number that needn't be whole."""
    if isinstance(value, str | bool):
        raise PydanticKnownError("float_type")
    return value


Whole = Annotated[int, BeforeValidator(a_json_number)]
Fraction = Annotated[float, BeforeValidator(a_json_fraction)]
Truth = Annotated[bool, Strict()]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
            raise ValueError("a and b name the same reply; compare two different ones")
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
            raise ValueError("order holds an empty group")
        if not 2 <= len(refs) <= MAX_RANKED:
            raise ValueError(f"a ranking is of 2 to {MAX_RANKED} replies")
        if len(set(refs)) != len(refs):
            raise ValueError("a reply stands in the ranking twice")
        return self


OneOfTheKinds = Thumb | Score | Label | Critique | Correction | Comparison | Ranking
Feedback = Annotated[OneOfTheKinds, Field(discriminator="kind")]
FEEDBACK: TypeAdapter[Feedback] = TypeAdapter(Feedback)
TEACHING_KINDS = ("thumb", "comparison", "ranking", "score", "correction")
"""Those that a learning method uses. The others are kept, and start no run."""
FEEDBACK_KINDS = (*TEACHING_KINDS, "label", "critique")


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


class HoneOptions(Wire):
    """Hone's own part of a chat request: the body's `hone` object."""

    conversation_id: ConversationId | None = Field(None, description="Keeps a conversation on one adapter.")


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


class AdapterView(Wire):
    name: str
    state: Literal["publishing", "candidate", "canary", "live", "retired", "rejected"]
    parent: str | None
    run_id: str | None
    created_at: datetime
    requested: bool = Field(
        False, description="An operator or the gate asked for it to go live and the rollout is under way."
    )
    loaded: bool = Field(False, description="Held now by every engine that gets requests.")
    reason: str = Field("", description="Why it is in this state.")
    report: dict[str, Any] = Field({}, description="What was measured; in a list only the figures that tell it apart.")
    history: tuple[AdapterEvent, ...] = ()


class AdapterEvent(Wire):
    at: datetime
    adapter: str
    action: str
    actor: str
    reason: str


class PromoteRequest(Wire):
    reason: Reason = ""


class CanaryRequest(Wire):
    share: Fraction = Field(gt=0, lt=1, description="Share of conversations that the canary answers.")
    reason: Reason = ""


class RejectRequest(Wire):
    reason: Reason = ""


class RollbackRequest(Wire):
    """Back to `to` (a version or `base`), or to what was live before."""

    to: Id | None = None
    reason: Reason = ""


class LearnRequest(Wire):
    """ "Learn now"."""

    method: Method | None = Field(None, description="None: auto, or that of a run which waits already.")
    promote: Truth | None = Field(None, description="Overrides the setting learner.auto_promote for this run.")


RunState = Literal["queued", "running", "succeeded", "rejected", "nothing_to_learn", "failed", "cancelled"]


class RunView(Wire):
    id: str
    state: RunState
    trigger: Literal["time", "count", "command"]
    method: str
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    phase: str = Field(
        "",
        description="snapshot, curate, train (or, meanwhile: waiting for the engine, or for space), evaluate, publish.",
    )
    step: int = 0
    steps: int = 0
    parent: str | None = None
    adapter: str | None = Field(None, description="The adapter it published.")
    snapshot_hash: str | None = None
    message: str = Field("", description="Why it ended as it did, in plain words.")


class Page(Wire):
    """A list with a cursor: pass `next` as `after` to go on."""

    data: tuple[Any, ...]
    next: str | None = None


class FeedbackStats(Wire):
    total: int
    withdrawn: int
    by_kind: dict[str, int]
    people: int
    since_last_run: int = Field(description="Of the kinds that a learning method uses.")


class ServingView(Wire):
    """The desired state of serving. `requested` is on its way to live."""

    live: str
    previous: str
    requested: str | None
    canary: str | None
    canary_share: float


class WhoAmI(Wire):
    caller: str
    role: Literal["user", "operator"]


class SessionToken(Wire):
    token: str
    caller: str


AdapterView.model_rebuild()
