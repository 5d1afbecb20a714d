"""Runs: the one state machine of training.

    queued ──lease──► running ──finish──► succeeded | rejected | nothing_to_learn | failed
      ▲                 │ │
      └──── release ────┘ └─ lease expired: leased again, until the attempts are used up: failed
    queued | running ──cancel──► cancelled

An attempt that got further than all before it is forgiven (`progress`): what ends a run for good is not how often
its process died, but how often in vain. That can't go on for ever, because the stages of a training and their steps are
bounded, and the furthest step of a stage never falls.

Whoever holds a lease holds its fence, a number that grows with every lease and with a cancellation. Writing with an
old one raises LeaseLost, so that a learner that was thought dead can't disturb the one that took over. One run is
trained at a time: each builds on the adapter that the one before made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Select, delete, func, insert, select
from sqlalchemy.orm import Session

from service.errors import BadInput, Conflict, LeaseLost, NotFound
from service.store.clock import now
from service.store.identifiers import new_id
from service.store.queries.adapters import lineage
from service.store.session import serialise
from service.store.tables import FeedbackRow, Run, RunFeedback

Trigger = Literal["time", "count", "command"]
Ending = Literal["succeeded", "rejected", "nothing_to_learn", "failed"]
_LEARNED = ("succeeded", "rejected", "nothing_to_learn")


@dataclass(frozen=True)
class Lease:
    """The right to work on a run until the lease expires; `fence` goes with every write."""

    run: Run
    fence: int

    @property
    def run_id(self) -> str:
        return self.run.id


def queue_run(tx: Session, tick: str, trigger: Trigger, method: str, options: dict[str, Any]) -> Run | None:
    """A new run; None when this tick has started one already, whoever asked."""
    serialise(tx, "runs")
    if tx.scalar(select(Run.id).where(Run.tick == tick)) is not None:
        return None
    run = Run(
        id=new_id("run"),
        tick=tick,
        trigger=trigger,
        method=method,
        options=options,
        state="queued",
        attempt=0,
        fence=0,
        created_at=now(),
        phase="",
        step=0,
        steps=0,
        furthest={},
        forgiven=[],
        feedback_position=0,
        message="",
    )
    tx.add(run)
    tx.flush()
    return run


def ask_for_run(
    tx: Session,
    method: str | None = None,
    promote: bool | None = None,
    usual_method: str = "auto",
    parent: str | None = None,
) -> tuple[Run, bool]:
    """The next run that begins, and whether it is new; None where the caller has no wish. `parent`: an adapter or
    `base`, looked at already; None: what is live when it begins.

    One that waits and was never begun serves everybody who asks, and takes over what they wish: a second one would
    learn from the same feedback. One that has begun has frozen its feedback, so beside it another may wait.
    """
    serialise(tx, "runs")
    never_begun = select(Run).where(Run.state == "queued", Run.started_at.is_(None))
    waiting = tx.scalar(_locked(never_begun.order_by(Run.created_at, Run.id).limit(1)))
    options = wishes(promote, parent)
    if waiting is not None:
        waiting.method, waiting.options = method or waiting.method, waiting.options | options
        return waiting, False
    run = queue_run(tx, new_id("command"), "command", method or usual_method, options)
    assert run is not None  # its tick is random, so nobody has used it
    return run, True


def wishes(promote: bool | None, parent: str | None) -> dict[str, Any]:
    """What a run's options hold of them: those that are none are left out."""
    named = {"promote": promote, "parent": parent}
    return {name: wish for name, wish in named.items() if wish is not None}


def broken_off(tx: Session, method: str, options: dict[str, Any], is_gone: Callable[[str], bool]) -> Run | None:
    """The oldest run with this method and these wishes that has begun and is not over, and that nobody works on."""
    begun = select(Run).where(Run.state.in_(("queued", "running")), Run.started_at.is_not(None), Run.method == method)
    found = tx.scalars(begun.order_by(Run.created_at, Run.id))
    return next((run for run in found if run.options == options and not is_worked_on(run, is_gone)), None)


def is_worked_on(run: Run, is_gone: Callable[[str], bool]) -> bool:
    """`is_gone`: whether the learner of this name is known to have ended, though it may hold a lease still."""
    if run.leased_by is None or run.leased_until is None or run.leased_until <= now():
        return False
    return not is_gone(run.leased_by)


def lease_run(tx: Session, worker: str, lease_seconds: float, max_attempts: int) -> Lease | None:
    """Take the run whose learner has gone, else the oldest queued one; None while another learner is at work.

    A run that was begun `max_attempts` times in vain is failed here, with the reason.
    """
    serialise(tx, "runs")
    moment = now()
    not_over = select(Run).where(Run.state.in_(("queued", "running"))).order_by(Run.created_at, Run.id)
    waiting = tx.scalars(_locked(not_over)).all()
    if any(run.leased_until is not None and run.leased_until > moment for run in waiting):
        return None
    for run in waiting:
        if in_vain(run) >= max_attempts:
            _end(run, "failed", f"Its process died {run.attempt} times, last in phase {run.phase or 'start'!r}.")
            continue
        run.state, run.leased_by, run.leased_until = "running", worker, moment + timedelta(seconds=lease_seconds)
        run.attempt += 1
        run.fence += 1
        run.started_at = run.started_at or moment
        tx.flush()
        return Lease(run, run.fence)
    return None


def heartbeat(tx: Session, run_id: str, fence: int, lease_seconds: float) -> bool:
    """Hold the lease for so much longer; False when it is lost."""
    try:
        run = _leased(tx, run_id, fence)
    except LeaseLost:
        return False
    run.leased_until = now() + timedelta(seconds=lease_seconds)
    return True


def progress(tx: Session, run_id: str, fence: int, phase: str, step: int, steps: int, stage: str | None = None) -> None:
    """Say how far the run is. Raises LeaseLost.

    `stage`: what of the work these are the steps of, None for no work. An attempt after the first that begins a stage,
    or comes to a step of it, that none before it came to is forgiven, once.
    """
    run = _leased(tx, run_id, fence)
    run.phase, run.step, run.steps = phase, step, steps
    if stage is not None and step > run.furthest.get(stage, -1):
        run.furthest = run.furthest | {stage: step}
        if run.attempt > 1 and fence not in run.forgiven:
            run.forgiven = [*run.forgiven, fence]


def in_vain(run: Run) -> int:
    """How many of a run's attempts count: the first, and those that got no further than the ones before them."""
    return run.attempt - len(run.forgiven)


def set_snapshot(
    tx: Session,
    run_id: str,
    fence: int,
    hash: str,
    position: int,
    feedback_ids: Collection[str],
    parent: str | None,
) -> None:
    """Record what the run learns from: feedback up to `position`, from the parent adapter on. Raises LeaseLost."""
    run = _leased(tx, run_id, fence)
    run.snapshot_hash, run.feedback_position, run.parent = hash, position, parent
    tx.execute(delete(RunFeedback).where(RunFeedback.run_id == run_id))
    if rows := [{"run_id": run_id, "feedback_id": feedback_id} for feedback_id in dict.fromkeys(feedback_ids)]:
        tx.execute(insert(RunFeedback), rows)


def finish_run(tx: Session, run_id: str, fence: int, state: Ending, message: str, adapter: str | None = None) -> None:
    """End the run, with the reason in plain words and the adapter that it published. Raises LeaseLost."""
    run = _leased(tx, run_id, fence)
    run.adapter, run.step = adapter, run.step if state == "failed" else run.steps
    _end(run, state, message)


def release_run(tx: Session, run_id: str, fence: int, died: bool = False) -> None:
    """Give the run back, to be leased again; stopping in order costs it no attempt, dying does. Raises LeaseLost."""
    run = _leased(tx, run_id, fence)
    run.state, run.leased_by, run.leased_until = "queued", None, None
    if not died:
        run.attempt, run.forgiven = run.attempt - 1, [one for one in run.forgiven if one != fence]


def cancel_run(tx: Session, run_id: str, reason: str = "Cancelled by an operator.") -> Run:
    """End a run that is waiting or under way; its learner loses the lease. Raises NotFound, or Conflict when over."""
    run = _get_locked(tx, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.", "GET /v1/runs lists them.")
    if run.state not in ("queued", "running"):
        raise Conflict(f"Run {run_id} is over: {run.state}.")
    run.fence += 1
    _end(run, "cancelled", reason)
    return run


def get_run(tx: Session, run_id: str) -> Run | None:
    return tx.get(Run, run_id)


def list_runs(tx: Session, after: str | None = None, limit: int = 50) -> Sequence[Run]:
    """Newest first; `after`: the id that the page before ended with. Raises BadInput when no run has it."""
    if after is not None and get_run(tx, after) is None:
        raise BadInput(f"after: there is no run {after!r}.", "Send the `next` of the page before.", param="after")
    query = select(Run).order_by(Run.id.desc()).limit(limit)
    return tx.scalars(query.where(Run.id < after) if after is not None else query).all()


def under_way(tx: Session) -> Run | None:
    """The run that a learner works on now."""
    return tx.scalar(select(Run).where(Run.state == "running").order_by(Run.created_at, Run.id).limit(1))


def learned_by(tx: Session, adapter: str) -> tuple[set[str], int]:
    """The feedback that an adapter comes from, and the position up to which its run took feedback in.

    Nothing and 0 for one that no run of this store made.
    """
    run = tx.scalar(select(Run).where(Run.adapter == adapter))
    if run is None:
        return set(), 0
    return set(tx.scalars(select(RunFeedback.feedback_id).where(RunFeedback.run_id == run.id))), run.feedback_position


def without_withdrawn(tx: Session, adapter: str) -> str | None:
    """The newest of an adapter and those it comes from that knows nothing of what was withdrawn since; None: the base.

    Each run starts from an adapter, so what one learned all after it know.
    """
    taught = select(Run.adapter).join(RunFeedback, RunFeedback.run_id == Run.id)
    withdrawn = taught.join(FeedbackRow, FeedbackRow.id == RunFeedback.feedback_id).where(
        FeedbackRow.withdrawn_at.is_not(None), Run.adapter.is_not(None)
    )
    spoiled = set(tx.scalars(withdrawn.distinct()))
    newest: str | None = adapter
    for row in lineage(tx, adapter):
        newest = row.parent if row.name in spoiled else newest
    return newest


def of_corrections_alone(tx: Session, adapter: str) -> bool:
    """Whether an adapter and all that it comes from were made here, by runs that nobody asked for a taste by name."""
    rows = lineage(tx, adapter)
    made_by = [get_run(tx, row.run_id) if row.run_id is not None else None for row in rows]
    return bool(rows) and all(run is not None and run.method in ("auto", "sft") for run in made_by)


def last_learned_position(tx: Session, or_under_way: bool = False) -> int:
    """Feedback up to this position has been in a run that came to an end of its own, or is in one under way if that
    counts, too; 0 when there was none."""
    states = (*_LEARNED, "running") if or_under_way else _LEARNED
    return tx.scalar(select(func.max(Run.feedback_position)).where(Run.state.in_(states))) or 0


def _leased(tx: Session, run_id: str, fence: int) -> Run:
    run = _get_locked(tx, run_id)
    if run is None or run.state != "running" or run.fence != fence:
        what = "is gone" if run is None else f"is {run.state}" if run.state != "running" else "was taken over"
        raise LeaseLost(f"Run {run_id} {what}: the lease with fence {fence} is void.", "Stop working on it.")
    return run


def _locked(query: Select[Run]) -> Select[Run]:
    """Runs that nobody else changes before this transaction ends: one that just was is looked at again (PostgreSQL)."""
    return query.with_for_update().execution_options(populate_existing=True)


def _get_locked(tx: Session, run_id: str) -> Run | None:
    return tx.get(Run, run_id, with_for_update=True, populate_existing=True)


def _end(run: Run, state: str, message: str) -> None:
    if not message.strip():
        raise BadInput(f"Run {run.id} can't end as {state} without a reason.")
    run.state, run.message, run.finished_at = state, message, now()
    run.leased_by = run.leased_until = None
