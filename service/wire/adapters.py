"""Adapters for operators: what there is and why, what serves, and what may be asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.wire.fields import Fraction, Id, Reason, Wire


class AdapterEvent(Wire):
    at: datetime
    adapter: str
    action: str
    actor: str
    reason: str


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


class ServingView(Wire):
    """The desired state of serving. `requested` is on its way to live."""

    live: str
    previous: str
    requested: str | None
    canary: str | None
    canary_share: float


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
