"""Feedback: taken in once, listed, changed and withdrawn by whoever gave it, read by the learner in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import BadInput, Conflict, NotFound
from service.store.clock import now
from service.store.identifiers import new_id
from service.store.queries.exchanges import get_exchanges
from service.store.queries.runs import last_learned_position
from service.store.session import serialise
from service.store.tables import Exchange, FeedbackRow, IdempotencyKey, Run, RunFeedback
from service.wire import (
    FEEDBACK,
    TEACHING_KINDS,
    Correction,
    Feedback,
    FeedbackStats,
    ReplyRef,
    StoredFeedback,
    replies_named,
)

_MAX_KEY_LENGTH = 255


def add_feedback_once(
    tx: Session, caller: str, feedback: Feedback, idempotency_key: str | None
) -> tuple[StoredFeedback, bool]:
    """Store a judgement; and whether it is new.

    The same idempotency key with the same body answers the one that is there. Raises as `add_feedback`, and
    Conflict for an idempotency key used for another body.
    """
    serialise(tx, "feedback")
    if idempotency_key is not None and (known := _answered_before(tx, caller, idempotency_key, feedback)):
        return known, False
    stored = add_feedback(tx, caller, feedback)
    if idempotency_key is not None:
        tx.add(
            IdempotencyKey(
                caller=caller,
                key=idempotency_key,
                body_hash=_body_hash(feedback),
                feedback_id=stored.id,
                created_at=stored.created_at,
            )
        )
        tx.flush()
    return stored, True


def add_feedback(tx: Session, caller: str, feedback: Feedback) -> StoredFeedback:
    """Store a judgement.

    Raises NotFound for an exchange that doesn't exist or is somebody else's (the two look the same to the caller),
    BadInput for a judgement that says nothing.
    """
    serialise(tx, "feedback")
    _check(tx, caller, feedback)
    moment = now()
    row = FeedbackRow(
        id=new_id("fb"),
        caller=caller,
        kind=feedback.kind,
        exchange_id=replies_named(feedback)[0].exchange_id,
        body=feedback.model_dump(mode="json"),
        created_at=moment,
        updated_at=moment,
    )
    tx.add(row)
    tx.flush()
    return _stored(tx, [row])[0]


def get_feedback(tx: Session, caller: str, feedback_id: str) -> StoredFeedback:
    """The caller's own feedback. Raises NotFound."""
    row = _own(tx, caller, feedback_id)
    return _stored(tx, [row])[0]


def list_feedback(tx: Session, caller: str, after: str | None = None, limit: int = 50) -> list[StoredFeedback]:
    """The caller's feedback, withdrawn ones included, newest first; `after`: the id that the page before ended with.

    Raises BadInput when no feedback of the caller has it.
    """
    query = select(FeedbackRow).where(FeedbackRow.caller == caller).order_by(FeedbackRow.id.desc()).limit(limit)
    if after is not None:
        if _find(tx, caller, after) is None:
            words = f"after: you have no feedback {after!r}."
            raise BadInput(words, "Send the `next` of the page before.", param="after")
        query = query.where(FeedbackRow.id < after)
    rows = tx.scalars(query).all()
    return _stored(tx, rows)


def change_feedback(tx: Session, caller: str, feedback_id: str, feedback: Feedback) -> StoredFeedback:
    """Replace a judgement; it counts as new to the learner.

    It stays of its kind and about its conversation: what somebody has learned from must not become what they are
    measured on. Raises as `add_feedback`, BadInput for another kind or conversation, and Conflict when withdrawn.
    """
    serialise(tx, "feedback")
    row = _own(tx, caller, feedback_id)
    if row.withdrawn_at is not None:
        raise Conflict(f"Feedback {feedback_id} was withdrawn.", "Send a new one.")
    _check(tx, caller, feedback)
    _check_change(tx, row, feedback)
    if row.body != (body := feedback.model_dump(mode="json")):
        row.body, row.exchange_id = body, replies_named(feedback)[0].exchange_id
        row.updated_at = now()
        row.position = _next_position(tx)
        tx.flush()
    return _stored(tx, [row])[0]


def withdraw_feedback(tx: Session, caller: str, feedback_id: str) -> StoredFeedback:
    """Take a judgement back: no later run learns from it. Doing it twice is the same as once. Raises NotFound."""
    serialise(tx, "feedback")
    row = _own(tx, caller, feedback_id)
    if row.withdrawn_at is None:
        row.withdrawn_at = row.updated_at = now()
        tx.flush()
    return _stored(tx, [row])[0]


def active_feedback(tx: Session, up_to_position: int) -> Sequence[FeedbackRow]:
    """What a snapshot is made of: everything not withdrawn, in order of position."""
    query = select(FeedbackRow).where(FeedbackRow.position <= up_to_position, FeedbackRow.withdrawn_at.is_(None))
    return tx.scalars(query.order_by(FeedbackRow.position)).all()


def withdrawn_of_run(tx: Session, run_id: str) -> int:
    """How many of the judgements that a run learns from were withdrawn since it froze them."""
    learned = select(RunFeedback.feedback_id).where(RunFeedback.run_id == run_id)
    query = select(func.count()).where(FeedbackRow.id.in_(learned), FeedbackRow.withdrawn_at.is_not(None))
    return tx.scalar(query) or 0


def earliest(tx: Session, limit: int) -> Sequence[FeedbackRow]:
    """The first so many that were ever given, in that order, whatever was changed or withdrawn since."""
    return tx.scalars(select(FeedbackRow).order_by(FeedbackRow.id).limit(limit)).all()


def last_position(tx: Session) -> int:
    """The position of the newest feedback; 0 when there is none."""
    return tx.scalar(select(func.max(FeedbackRow.position))) or 0


def count_since(tx: Session, position: int) -> int:
    """How much feedback to learn from came, or was changed, after a position, and was not withdrawn since."""
    query = select(func.count()).where(FeedbackRow.position > position, FeedbackRow.withdrawn_at.is_(None))
    return tx.scalar(query.where(FeedbackRow.kind.in_(TEACHING_KINDS))) or 0


def stats(tx: Session) -> FeedbackStats:
    """`total`, `by_kind` and `people` count what is not withdrawn."""
    active = FeedbackRow.withdrawn_at.is_(None)
    by_kind = select(FeedbackRow.kind, func.count()).where(active).group_by(FeedbackRow.kind).order_by(FeedbackRow.kind)
    counts = dict(tx.execute(by_kind).tuples().all())
    return FeedbackStats(
        total=sum(counts.values()),
        withdrawn=tx.scalar(select(func.count()).where(FeedbackRow.withdrawn_at.is_not(None))) or 0,
        by_kind=counts,
        people=tx.scalar(select(func.count(FeedbackRow.caller.distinct())).where(active)) or 0,
        since_last_run=count_since(tx, last_learned_position(tx, or_under_way=True)),
    )


def _check_change(tx: Session, row: FeedbackRow, feedback: Feedback) -> None:
    if feedback.kind != row.kind:
        raise BadInput(
            f"Feedback {row.id} is a {row.kind} and can't become a {feedback.kind}.", "Withdraw it and send a new one."
        )
    about = get_exchanges(tx, {row.exchange_id, replies_named(feedback)[0].exchange_id})
    if len({exchange.conversation_id for exchange in about.values()}) > 1:
        raise BadInput(
            f"Feedback {row.id} is about a reply of another conversation.", "Withdraw it and send a new one."
        )


def _check(tx: Session, caller: str, feedback: Feedback) -> None:
    refs = replies_named(feedback)
    exchanges = get_exchanges(tx, {ref.exchange_id for ref in refs})
    for ref in refs:
        _check_reply(caller, ref, exchanges.get(ref.exchange_id))
    first = exchanges[refs[0].exchange_id]
    if any(exchange.messages != first.messages for exchange in exchanges.values()):
        raise BadInput(
            "The replies answer different messages, so they can't be compared.",
            "Compare replies of one exchange, or of exchanges with the same messages.",
        )
    if isinstance(feedback, Correction) and feedback.text.strip() == first.replies[feedback.index].text.strip():
        raise BadInput("The correction equals the reply.", "Send a thumb if the reply was right.", param="text")


def _check_reply(caller: str, ref: ReplyRef, exchange: Exchange | None) -> None:
    if exchange is None or exchange.caller != caller:
        raise NotFound(
            f"You have no exchange {ref.exchange_id!r}.", "Send the id of a chat reply.", param="exchange_id"
        )
    if ref.index >= len(exchange.replies):
        raise BadInput(
            f"Exchange {ref.exchange_id} has no reply {ref.index}; it has {len(exchange.replies)}.",
            "Indices count from 0.",
            param="index",
        )


def _answered_before(tx: Session, caller: str, key: str, feedback: Feedback) -> StoredFeedback | None:
    if not 0 < len(key) <= _MAX_KEY_LENGTH:
        raise BadInput(f"An Idempotency-Key has 1 to {_MAX_KEY_LENGTH} characters, not {len(key)}.")
    known = tx.get(IdempotencyKey, (caller, key))
    if known is None:
        return None
    if known.body_hash != _body_hash(feedback):
        raise Conflict("This Idempotency-Key came with another body before.", "Use a new key for a new judgement.")
    return get_feedback(tx, caller, known.feedback_id)


def _body_hash(feedback: Feedback) -> str:
    return hashlib.sha256(json.dumps(feedback.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _own(tx: Session, caller: str, feedback_id: str) -> FeedbackRow:
    row = _find(tx, caller, feedback_id)
    if row is None:
        raise NotFound(f"You have no feedback {feedback_id!r}.", "GET /v1/feedback lists yours.")
    return row


def _find(tx: Session, caller: str, feedback_id: str) -> FeedbackRow | None:
    return tx.scalar(select(FeedbackRow).where(FeedbackRow.id == feedback_id, FeedbackRow.caller == caller))


def _next_position(tx: Session) -> int:
    """A position above every other; PostgreSQL's sequence has to hear of it, SQLite looks at the rows."""
    if tx.get_bind().dialect.name == "postgresql":
        sequence = func.pg_get_serial_sequence(FeedbackRow.__tablename__, "position")
        return tx.scalar(select(func.nextval(sequence))) or 0
    return last_position(tx) + 1


def _learned_in(tx: Session, feedback_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The first and the newest adapter that learned each feedback as it is now: every run learns all of it again."""
    ends = (
        select(RunFeedback.feedback_id, func.min(Run.id).label("first"), func.max(Run.id).label("newest"))
        .join(Run, Run.id == RunFeedback.run_id)
        .join(FeedbackRow, FeedbackRow.id == RunFeedback.feedback_id)
        .where(RunFeedback.feedback_id.in_(feedback_ids))
        .where(Run.state == "succeeded", Run.adapter.is_not(None))
        .where(Run.feedback_position >= FeedbackRow.position)  # else it was changed since
        .group_by(RunFeedback.feedback_id)
        .subquery()
    )
    query = select(ends.c.feedback_id, Run.adapter).join(Run, Run.id.in_((ends.c.first, ends.c.newest)))
    found: dict[str, tuple[str, ...]] = {}
    for feedback_id, adapter in tx.execute(query.order_by(Run.id)):
        found[feedback_id] = (*found.get(feedback_id, ()), adapter)
    return found


def _stored(tx: Session, rows: Sequence[FeedbackRow]) -> list[StoredFeedback]:
    learned_in, considered = _learned_in(tx, [row.id for row in rows]), last_learned_position(tx)
    return [
        StoredFeedback(
            id=row.id,
            created_at=row.created_at,
            updated_at=row.updated_at,
            withdrawn=row.withdrawn_at is not None,
            feedback=FEEDBACK.validate_python(row.body),
            learned_in=learned_in.get(row.id, ()),
            considered=row.position <= considered,
        )
        for row in rows
    ]
