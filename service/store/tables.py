"""The tables. Everything that must outlive a process is in here or in the immutable folders that a row names.

Times are UTC, aware, as service.store.clock tells them. Token ids and log-probabilities are JSON lists.
Nothing is deleted by the service: feedback is withdrawn, adapters are retired or rejected, keys are revoked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, Index, MetaData, Text, TypeDecorator, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time in every database; SQLite forgets the zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


class PlainText(TypeDecorator[str]):
    """Text that every database takes: NUL and half surrogate pairs, which PostgreSQL refuses, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\x00", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(), list[Any]: JSON(), str: PlainText()}


class Key(Table):
    """An API key: its secret is kept as a SHA-256 hash, found by its public prefix."""

    __tablename__ = "keys"
    prefix: Mapped[str] = mapped_column(primary_key=True)
    secret_hash: Mapped[str]
    role: Mapped[str]  # user | operator
    name: Mapped[str]  # the caller it names
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Conversation(Table):
    """Sticks one conversation to the adapter that answered it first while that one is a canary or live."""

    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(primary_key=True)
    caller: Mapped[str]
    adapter: Mapped[str]
    created_at: Mapped[datetime]


class Exchange(Table):
    """One prompt and its replies, bound for ever to adapter, sampling settings and tokens."""

    __tablename__ = "exchanges"
    id: Mapped[str] = mapped_column(primary_key=True)
    caller: Mapped[str]
    conversation_id: Mapped[str]
    created_at: Mapped[datetime]
    model: Mapped[str]  # the alias asked for
    adapter: Mapped[str]  # what answered: a version or "base"
    base: Mapped[str]  # the base model's name
    base_sha256: Mapped[str | None]  # its fingerprint, where its files are known to the service
    messages: Mapped[list[Any]]
    sampling: Mapped[dict[str, Any]]
    best_of: Mapped[int | None]  # samples that a judge chose the replies from; None: whatever was sampled is here
    prompt_token_ids: Mapped[list[Any]]
    complete: Mapped[bool]  # False: the caller left or the engine failed before the end
    replies: Mapped[list[Reply]] = relationship(order_by="Reply.index", lazy="selectin")


class Reply(Table):
    __tablename__ = "replies"
    exchange_id: Mapped[str] = mapped_column(ForeignKey("exchanges.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    finish_reason: Mapped[str | None]
    token_ids: Mapped[list[Any]]
    logprobs: Mapped[list[Any]]  # the policy's for one draw, also where the best of several was chosen


class FeedbackRow(Table):
    """One judgement. `position` counts acknowledged feedback in order, so that "new since" is one comparison.

    A changed feedback moves to a new position: it is news to the learner.
    """

    __tablename__ = "feedback"
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    caller: Mapped[str]
    kind: Mapped[str]
    exchange_id: Mapped[str] = mapped_column(ForeignKey("exchanges.id"), index=True)  # the first that it names
    body: Mapped[dict[str, Any]]  # service.wire.Feedback
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]
    __table_args__ = (Index("ix_feedback_caller_id", "caller", "id"), {"sqlite_autoincrement": True})


class IdempotencyKey(Table):
    """What was answered to a request that carried an `Idempotency-Key`."""

    __tablename__ = "idempotency_keys"
    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_hash: Mapped[str]
    feedback_id: Mapped[str] = mapped_column(ForeignKey("feedback.id"))
    created_at: Mapped[datetime]


class Adapter(Table):
    """One immutable version. `number` is never used twice, so neither is the name `v{number}`."""

    __tablename__ = "adapters"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    state: Mapped[str] = mapped_column(index=True)  # publishing candidate canary live retired rejected
    parent: Mapped[str | None]
    run_id: Mapped[str | None] = mapped_column(index=True)
    manifest_hash: Mapped[str | None]  # set when the folder is complete
    report: Mapped[dict[str, Any]]
    reason: Mapped[str]  # why it is in this state
    created_at: Mapped[datetime]
    __table_args__ = {"sqlite_autoincrement": True}

    @property
    def name(self) -> str:
        return f"v{self.number}"


class AdapterEventRow(Table):
    """Who did what to which adapter and why: the page that says why this adapter is live reads this."""

    __tablename__ = "adapter_events"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    adapter: Mapped[str] = mapped_column(index=True)
    action: Mapped[str]
    actor: Mapped[str]
    reason: Mapped[str]


class Serving(Table):
    """One row: the desired state. The service brings every engine replica there.

    `live` answers the alias `hone` ("base": no adapter). `requested` is an adapter on its way to live: the rollout
    loads it, proves it, then moves it to `live` in one transaction.
    """

    __tablename__ = "serving"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # always 1
    live: Mapped[str]
    previous: Mapped[str]
    requested: Mapped[str | None]
    requested_by: Mapped[str | None]
    requested_reason: Mapped[str | None]
    canary: Mapped[str | None]
    canary_share: Mapped[float]
    changed_at: Mapped[datetime]


class EngineChange(Table):
    """An engine that an operator added to those that the settings name, or took out, while the service ran."""

    __tablename__ = "engine_changes"
    url: Mapped[str] = mapped_column(primary_key=True)
    is_wanted: Mapped[bool]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime]


class Run(Table):
    """One training. The truth about it; the learner's clock only looks here.

    `tick` is unique, so that one moment starts one run however many learners watch. `fence` grows with every lease;
    a learner whose fence is old can write nothing any more.
    """

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    tick: Mapped[str]
    trigger: Mapped[str]  # time | count | command
    method: Mapped[str]
    options: Mapped[dict[str, Any]]
    state: Mapped[str]
    attempt: Mapped[int]  # without those that were stopped in order
    fence: Mapped[int]
    leased_by: Mapped[str | None]
    leased_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    phase: Mapped[str]
    step: Mapped[int]
    steps: Mapped[int]
    furthest: Mapped[dict[str, Any]]  # the highest step by stage, of all attempts
    forgiven: Mapped[list[Any]]  # the fences of attempts that got further than all before them
    parent: Mapped[str | None]
    adapter: Mapped[str | None]
    snapshot_hash: Mapped[str | None]
    feedback_position: Mapped[int]  # feedback up to here was in its snapshot
    message: Mapped[str]
    __table_args__ = (UniqueConstraint("tick"), Index("ix_runs_state_created", "state", "created_at"))


class RunFeedback(Table):
    """Which feedback a run learned from."""

    __tablename__ = "run_feedback"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    feedback_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class ConstitutionRow(Table):
    """One constitution that was put in effect. The newest is; none: the one that comes with Hone, `c0`.

    Rows are never changed: putting an older one back in effect is a new row.
    """

    __tablename__ = "constitutions"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    text: Mapped[str]  # the file as it was given
    sha256: Mapped[str]  # of its content, however it is laid out
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    note: Mapped[str]
    __table_args__ = {"sqlite_autoincrement": True}

    @property
    def name(self) -> str:
        return f"c{self.number}"


class RevisionRow(Table):
    """One critique of a reply under one principle, and what came of it, while the reply was served.

    `position` counts them in order, as that of feedback does. The first text of an exchange is the engine's draft; the
    last that a verdict found better is what was answered. Token ids that ended hold EOS.
    """

    __tablename__ = "revisions"
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    exchange_id: Mapped[str] = mapped_column(ForeignKey("exchanges.id"))
    index: Mapped[int]  # from 0, within the exchange
    round: Mapped[int]  # from 1
    created_at: Mapped[datetime]
    constitution: Mapped[str]  # c0, c1, …
    constitution_sha256: Mapped[str]
    principle: Mapped[str]
    critique: Mapped[str]  # empty: none came
    before: Mapped[str]
    before_token_ids: Mapped[list[Any]]
    before_logprobs: Mapped[list[Any]]  # the draft's; of a revision none, as it was sampled after another prompt
    before_finish_reason: Mapped[str | None]
    after: Mapped[str | None]  # None: there was no revision, or none that was judged
    after_token_ids: Mapped[list[Any]]
    after_finish_reason: Mapped[str | None]
    odds: Mapped[float | None]  # that `after` is better than `before`, both orders averaged; None: not judged
    ended: Mapped[str]  # revised | no better | nothing wrong | out of time | failed
    problem: Mapped[str]  # why it failed
    seconds: Mapped[float]
    __table_args__ = (UniqueConstraint("exchange_id", "index"), {"sqlite_autoincrement": True})
