"""Exchanges: what was asked, what was answered, by which adapter, token by token."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, insert, select
from sqlalchemy.orm import Session

from service.store.clock import now
from service.store.prepared import Prepared, Tx
from service.store.tables import Exchange, Reply

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON can't say."""

_NAMES_PER_QUERY = 500
"""SQLite allows a limited number of parameters in one query."""

_ADD_EXCHANGE = Prepared(insert(cast(Table, Exchange.__table__)))
_ADD_REPLY = Prepared(insert(cast(Table, Reply.__table__)))


@dataclass(frozen=True)
class NewReply:
    """One choice: its text, and its token ids with their log-probabilities (natural, raw), EOS included."""

    text: str
    finish_reason: str | None
    token_ids: Sequence[int]
    logprobs: Sequence[float]


@dataclass(frozen=True)
class NewExchange:
    """One prompt and its replies, in the order of their index. `adapter` is what answered: `v3` or `base`.

    `base` is the base model's name, `base_sha256` its fingerprint; None where its files aren't known. `best_of`: the
    replies are those that a judge liked best of so many samples; None where nothing was left out. Log-probabilities are
    the policy's for one draw: who weighs by them must leave chosen replies out, which are drawn from another policy.
    """

    id: str
    caller: str
    conversation_id: str
    model: str
    adapter: str
    base: str
    messages: Sequence[dict[str, Any]]
    sampling: dict[str, Any]
    prompt_token_ids: Sequence[int]
    replies: Sequence[NewReply]
    complete: bool = True
    base_sha256: str | None = None
    best_of: int | None = None


def add_exchange(tx: Tx, exchange: NewExchange) -> None:
    """Store an exchange. Its id must be new (`new_id("chatcmpl")`)."""
    _ADD_EXCHANGE.run(
        tx,
        {
            "id": exchange.id,
            "caller": exchange.caller,
            "conversation_id": exchange.conversation_id,
            "created_at": now(),
            "model": exchange.model,
            "adapter": exchange.adapter,
            "base": exchange.base,
            "base_sha256": exchange.base_sha256,
            "messages": exchange.messages,
            "sampling": exchange.sampling,
            "best_of": exchange.best_of,
            "prompt_token_ids": exchange.prompt_token_ids,
            "complete": exchange.complete,
        },
    )
    if exchange.replies:
        _ADD_REPLY.run(tx, *(_row(exchange.id, index, reply) for index, reply in enumerate(exchange.replies)))


def get_exchange(tx: Session, exchange_id: str) -> Exchange | None:
    return tx.get(Exchange, exchange_id)


def get_exchanges(tx: Session, exchange_ids: Collection[str]) -> dict[str, Exchange]:
    """Those of the exchanges that exist, by id."""
    ids = sorted(set(exchange_ids))
    found: dict[str, Exchange] = {}
    for start in range(0, len(ids), _NAMES_PER_QUERY):
        some = select(Exchange).where(Exchange.id.in_(ids[start : start + _NAMES_PER_QUERY]))
        found |= {exchange.id: exchange for exchange in tx.scalars(some)}
    return found


def recent_prompts(tx: Session, limit: int, model: str | None = None) -> list[Exchange]:
    """The newest complete exchanges, newest first: what people ask about now. `model`: only of those who asked it."""
    query = select(Exchange).where(Exchange.complete).order_by(Exchange.id.desc()).limit(limit)
    return list(tx.scalars(query.where(Exchange.model == model) if model is not None else query))


def as_json_numbers(logprobs: Sequence[float]) -> list[float]:
    """Log-probabilities as JSON can say them."""
    return [value if math.isfinite(value) else LEAST_LOGPROB for value in logprobs]


def _row(exchange_id: str, index: int, reply: NewReply) -> dict[str, Any]:
    return {
        "exchange_id": exchange_id,
        "index": index,
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "token_ids": reply.token_ids,
        "logprobs": as_json_numbers(reply.logprobs),
    }
