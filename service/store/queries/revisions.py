"""Revisions: what a constitution made of replies while they were served, and the preference pairs that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import column, func, insert, select, table
from sqlalchemy.orm import Session, raiseload

from service.store.clock import now
from service.store.prepared import Prepared, Tx
from service.store.queries.exchanges import NewReply, as_json_numbers
from service.store.session import serialise
from service.store.tables import Exchange, RevisionRow

Ended = Literal["revised", "no better", "nothing wrong", "out of time", "failed"]
_TABLE = RevisionRow.__table__
_ADD = Prepared(insert(table("revisions", *(column(one.name, one.type) for one in _TABLE.c if one.name != "position"))))
"""The database counts positions."""


@dataclass(frozen=True)
class NewRevision:
    """One critique under one principle. `before` is what was criticised, `after` what came of it, if anything did.

    `odds` are those of the verdict that `after` is the better one; without a verdict there are none. `constitution` is
    the version's name (`c1`), `round` counts from 1; `problem` says why it failed. Texts have log-probabilities only
    where they were sampled after the person's own prompt: the draft has them.
    """

    round: int
    constitution: str
    constitution_sha256: str
    principle: str
    critique: str
    before: NewReply
    after: NewReply | None
    ended: Ended
    problem: str
    seconds: float
    odds: float | None = None


@dataclass(frozen=True)
class RevisionPair:
    """A preference of the constitution's: of one prompt, the last revision over the draft.

    `principle` and `critique` are those of the last revision. `adapter` and `base` answered `messages` of `caller`.
    `odds` are the least of the verdicts between the draft and there; None: one of the revisions was never judged.
    """

    position: int
    exchange_id: str
    conversation_id: str
    caller: str
    base: str
    base_sha256: str | None
    adapter: str
    messages: Sequence[dict[str, Any]]
    prompt_token_ids: Sequence[int]
    chosen_token_ids: Sequence[int]
    rejected_token_ids: Sequence[int]
    constitution: str
    constitution_sha256: str
    principle: str
    critique: str
    odds: float | None


def add_revisions(tx: Tx, exchange_id: str, revisions: Sequence[NewRevision]) -> None:
    """Store what was made of an exchange's reply, in order."""
    if revisions:
        serialise(tx, "revisions")  # so that positions are seen in their order
        _ADD.run(tx, *(_row(exchange_id, index, one) for index, one in enumerate(revisions)))


def revisions_of(tx: Session, exchange_id: str) -> Sequence[RevisionRow]:
    """Those of one exchange, in order."""
    query = select(RevisionRow).where(RevisionRow.exchange_id == exchange_id).order_by(RevisionRow.index)
    return tx.scalars(query).all()


def last_position(tx: Session) -> int:
    """Of all revisions so far; 0 where there are none."""
    return tx.scalar(select(func.max(RevisionRow.position))) or 0


def revision_pairs(tx: Session, up_to_position: int) -> Iterator[RevisionPair]:
    """What a snapshot may learn: draft and last revision of every exchange up to there, in order of position.

    Left out are exchanges that are gone, replies that nothing was revised in, and revisions that say what the draft
    says or were cut short: as chosen they would teach to stop in the middle. One that a caller's `stop` cut short is
    still there; it doesn't end with EOS.
    """
    query = (
        select(RevisionRow, Exchange)
        .join(Exchange, Exchange.id == RevisionRow.exchange_id)
        .where(RevisionRow.position <= up_to_position)
        .order_by(RevisionRow.position)
        .options(raiseload(Exchange.replies))
    )
    found = ((row, exchange) for row, exchange in tx.execute(query))
    for _, rows in groupby(found, lambda one: one[0].exchange_id):
        steps = list(rows)
        (first, exchange), revised = steps[0], [row for row, _ in steps if row.ended == "revised"]
        if not revised:
            continue
        last = revised[-1]
        if last.after_finish_reason == "stop" and (last.after or "").strip() != first.before.strip():
            yield _pair(exchange, first, revised)


def _pair(exchange: Exchange, first: RevisionRow, revised: Sequence[RevisionRow]) -> RevisionPair:
    last, odds = revised[-1], [row.odds for row in revised if row.odds is not None]
    return RevisionPair(
        position=last.position,
        exchange_id=exchange.id,
        conversation_id=exchange.conversation_id,
        caller=exchange.caller,
        base=exchange.base,
        base_sha256=exchange.base_sha256,
        adapter=exchange.adapter,
        messages=exchange.messages,
        prompt_token_ids=exchange.prompt_token_ids,
        chosen_token_ids=last.after_token_ids,
        rejected_token_ids=first.before_token_ids,
        constitution=last.constitution,
        constitution_sha256=last.constitution_sha256,
        principle=last.principle,
        critique=last.critique,
        odds=min(odds) if len(odds) == len(revised) else None,
    )


def _row(exchange_id: str, index: int, revision: NewRevision) -> dict[str, Any]:
    before, after = revision.before, revision.after
    return {
        "exchange_id": exchange_id,
        "index": index,
        "round": revision.round,
        "created_at": now(),
        "constitution": revision.constitution,
        "constitution_sha256": revision.constitution_sha256,
        "principle": revision.principle,
        "critique": revision.critique,
        "before": before.text,
        "before_token_ids": before.token_ids,
        "before_logprobs": as_json_numbers(before.logprobs),
        "before_finish_reason": before.finish_reason,
        "after": after.text if after is not None else None,
        "after_token_ids": after.token_ids if after is not None else [],
        "after_finish_reason": after.finish_reason if after is not None else None,
        "odds": revision.odds,
        "ended": revision.ended,
        "problem": revision.problem,
        "seconds": revision.seconds,
    }
