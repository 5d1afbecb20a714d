"""What `service.app` wires together, as the routes find it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from service.adapters.registry import Registry
from service.adapters.rollout import Rollout
from service.auth import Caller, Identities
from service.chat.asking import Asking
from service.chat.completion import Chat
from service.chat.principles import Principles
from service.engine_list import EngineList
from service.metrics import Metrics
from service.pages import Pages
from service.recent_stats import RecentStats
from service.replicas import Replicas
from service.settings import Settings
from service.transactions import Transactions


@dataclass(frozen=True)
class Parts:
    settings: Settings
    transactions: Transactions
    replicas: Replicas
    registry: Registry
    rollout: Rollout
    engine_list: EngineList
    identities: Identities
    chat: Chat
    asking: Asking
    principles: Principles
    recent_stats: RecentStats
    metrics: Metrics
    pages: Pages | None
    started_at: datetime


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _parts(request: Request) -> Parts:  # what is not async costs a thread
    return parts_of(request)


async def caller_of(request: Request) -> Caller:
    return await parts_of(request).identities.identify(request.headers)


async def _operator(request: Request) -> Caller:
    caller = await caller_of(request)
    caller.must_be_operator()
    return caller


OPERATORS_ONLY = "x-operators-only"
"""Marks a route in the OpenAPI schema."""
FOR_OPERATORS = {OPERATORS_ONLY: True}

Wired = Annotated[Parts, Depends(_parts)]
AnyCaller = Annotated[Caller, Depends(caller_of)]
Operator = Annotated[Caller, Depends(_operator)]
