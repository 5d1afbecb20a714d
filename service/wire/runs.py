"""Runs for operators: "learn now", and how far one is."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.settings import Method
from service.wire.fields import Truth, Wire


class LearnRequest(Wire):
    """ "Learn now"."""

    method: Method | None = Field(
        None, description="null: that of a run that waits already, else as the setting learner.method says."
    )
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
        description="snapshot, curate, train (or, meanwhile: waiting for the engine, or for space), evaluate, publish. "
        "Behind a colon the stage of it that `step` counts, where there are several: `train: dpo`.",
    )
    step: int = 0
    steps: int = 0
    parent: str | None = None
    adapter: str | None = Field(None, description="The adapter it published.")
    snapshot_hash: str | None = None
    message: str = Field("", description="Why it ended as it did, in plain words.")
