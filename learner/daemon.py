"""The learner's process: it decides when a run starts, leases it, and has a child process train it.

APScheduler is the clock and nothing more: its jobs live in memory, and everything that matters is in the `runs` table.
A run is queued under the name of its tick (`time:2026-11-21T03:30Z`, `count:150`), which is unique, so any number of
learners may watch the same store and one run starts. Who works on a run holds a lease, kept alive by a heartbeat, and
a fence; a learner that falls silent loses the run to another, or to itself after a restart. A child that dies is
started again, `max_attempts` times in all but for those in which it got further than before; SIGTERM gives the run back
at once, so that the next start goes on with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.orm import Session

from learner.curves import draw
from learner.metrics import read_metrics
from learner.run_folder import RunFolder
from learner.training_process import Start, Training, cause_of_death, start_child
from service.adapters.registry import Registry
from service.errors import LeaseLost, StoreError
from service.settings import LearnerSettings, Settings
from service.store.queries import adapters, feedback, runs
from service.store.session import Store

log = logging.getLogger("hone.learner")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Learner:
    """Looks for work and supervises it. Its methods are called from one thread at a time. `name`: on its leases."""

    def __init__(self, settings: Settings, store: Store, start: Start = start_child) -> None:
        self._settings = settings.learner
        self._all_settings = settings
        self._store = store
        self._start = start
        self._training: Training | None = None
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    def queue_by_time(self, moment: datetime | None = None) -> None:
        """Queue the run of the present time slot, if there is new feedback and no run is waiting or under way."""
        slot = timedelta(minutes=self._settings.every_minutes)
        begins = EPOCH + ((moment or datetime.now(UTC)) - EPOCH) // slot * slot
        with self._store.begin() as tx:
            if self._has_new(tx, 1):
                runs.queue_run(tx, f"time:{begins:%Y-%m-%dT%H:%M:%SZ}", "time", self._settings.method, {})

    def queue_by_count(self) -> None:
        """Queue a run when enough feedback came since the last one. A run that failed waits for as much again."""
        enough = self._settings.after_feedback
        with self._store.read() as tx:
            if not self._has_new(tx, enough):
                return
        with self._store.begin() as tx:
            if self._has_new(tx, enough):
                runs.queue_run(
                    tx, f"count:{feedback.last_position(tx) // enough * enough}", "count", self._settings.method, {}
                )

    def _has_new(self, tx: Session, enough: int) -> bool:
        """Whether so much feedback has come since the last run, and no run will see to it anyway."""
        if any(run.state in ("queued", "running") for run in runs.list_runs(tx)):
            return False
        return feedback.count_since(tx, runs.last_learned_position(tx)) >= enough

    def work(self) -> None:
        """Start a training if one waits; see how the one under way does."""
        if self._training is None:
            self._lease()
        elif self._training.process.poll() is not None:
            training, self._training = self._training, None
            training.stop()
            self._settle(training.lease, cause_of_death(training.process.returncode, training.log_path))
            self._leave_curves(training.lease.run_id)
        elif not training_is_ours(self._store, self._training):
            self._abandon("It was cancelled, or another learner took it over.")

    def beat(self) -> None:
        """Keep the lease; give the training up when it is gone."""
        training = self._training
        if training is None:
            return
        with self._store.begin() as tx:
            held = runs.heartbeat(tx, training.lease.run_id, training.lease.fence, self._settings.lease_seconds)
        if not held and not training_is_ours(self._store, training):
            self._abandon("It was cancelled, or another learner took it over.")

    def stop(self) -> None:
        """Stop the training and give its run back, to be gone on with at the next start."""
        training, self._training = self._training, None
        if training is None:
            return
        training.stop()
        # Lost: it ended in the last moment. A store that is away finds out when the lease runs out.
        with contextlib.suppress(LeaseLost, StoreError), self._store.begin() as tx:
            runs.release_run(tx, training.lease.run_id, training.lease.fence)
            log.info("Run %s is given back; the next start goes on with it.", training.lease.run_id)

    def _lease(self) -> None:
        with self._store.read() as tx:
            if not any(run.state in ("queued", "running") for run in runs.list_runs(tx)):
                return
        with self._store.begin() as tx:
            lease = runs.lease_run(tx, self.name, self._settings.lease_seconds, self._settings.max_attempts)
        if lease is not None:
            log.info("Run %s begins, attempt %d.", lease.run_id, lease.run.attempt)
            try:
                self._training = self._start(self._all_settings, lease)
            except OSError as error:  # a full disk, too many processes
                self._settle(lease, f"it could not be started: {error}")

    def _abandon(self, why: str) -> None:
        training, self._training = self._training, None
        if training is None:
            return
        training.stop()
        with self._store.begin() as tx:
            run = runs.get_run(tx, training.lease.run_id)
            if run is not None and run.state == "cancelled":
                adapters.abandon_publishing(tx, run.id, "Its run was cancelled.")
        log.info("Run %s was given up: %s", training.lease.run_id, why)
        self._leave_curves(training.lease.run_id)

    def _leave_curves(self, run_id: str) -> None:
        """Of a run that failed or was cancelled: its child would have drawn them at the end of training."""
        with self._store.read() as tx:
            run = runs.get_run(tx, run_id)
        if run is None or run.state not in ("failed", "cancelled"):
            return
        with contextlib.suppress(OSError):  # a full disk may be why it failed
            folder = RunFolder.of(self._all_settings, run_id)
            if not folder.curves.exists():
                draw(read_metrics(folder.metrics), folder.curves)

    def _settle(self, lease: runs.Lease, why: str) -> None:
        """The child is no more: unless it ended its run, give the run back, or fail it for good."""
        attempts = self._settings.max_attempts
        with self._store.begin() as tx:
            run = runs.get_run(tx, lease.run_id)
            if run is None or run.state != "running" or run.fence != lease.fence:
                return
            if runs.in_vain(run) >= attempts:
                message = f"Its process died {run.attempt} times, last in phase {run.phase or 'start'!r}: {why}"
                runs.finish_run(tx, lease.run_id, lease.fence, "failed", message)
                adapters.abandon_publishing(tx, lease.run_id)
            else:
                runs.release_run(tx, lease.run_id, lease.fence, died=True)
        counted = f"attempt {run.attempt}; {runs.in_vain(run)} of {attempts} got no further"
        log.warning("The process of run %s died (%s): %s", lease.run_id, counted, why)


def is_gone(name: str) -> bool:
    """Whether the learner that gave itself this name was a process of this machine and has ended."""
    host, _, number = name.rpartition(":")
    if host != socket.gethostname() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)  # asks, and does nothing
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, and alive
        return False
    return False


def training_is_ours(store: Store, training: Training) -> bool:
    """Whether the run is still the one that was leased, or has just been ended by the child."""
    with store.read() as tx:
        run = runs.get_run(tx, training.lease.run_id)
    return run is not None and run.fence == training.lease.fence and run.state != "cancelled"


def occasions(settings: LearnerSettings) -> list[str]:
    """When a run begins, in words."""
    by_count = [f"after {settings.after_feedback} new judgements"] if settings.after_feedback else []
    by_time = [f"every {settings.every_minutes:g} minutes if there are any"] if settings.every_minutes else []
    return [*by_count, *by_time, "when it is asked for"]


def run_forever(settings: Settings, when_watching: Callable[[], None]) -> int:
    """`hone learn`: until SIGTERM or SIGINT. Returns the exit code."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = Store.open(settings.store_url, checkpoints=False)
    for done in Registry.of(settings, store).recover():
        log.info("%s", done)
    learner = Learner(settings, store)
    scheduler = make_clock(settings, learner)
    scheduler.start()
    log.info("The learner watches %s.", settings.home)
    when_watching()
    try:
        stopping.wait()
    finally:
        scheduler.shutdown(wait=True)
        learner.stop()
        store.close()
    return 0


def make_clock(settings: Settings, learner: Learner) -> BackgroundScheduler:
    """Fixed ticks, one job at a time, a late tick once instead of many times."""
    clock = BackgroundScheduler(
        jobstores={"default": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
    )
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    tick, chosen = settings.learner.tick_seconds, settings.learner
    clock.add_job(outliving_the_store(learner.work), IntervalTrigger(seconds=tick), next_run_time=datetime.now(UTC))
    clock.add_job(outliving_the_store(learner.beat), IntervalTrigger(seconds=min(5.0, chosen.lease_seconds / 4)))
    if chosen.after_feedback:
        clock.add_job(outliving_the_store(learner.queue_by_count), IntervalTrigger(seconds=tick))
    if chosen.every_minutes:
        slots = IntervalTrigger(seconds=60 * chosen.every_minutes, start_date=EPOCH)
        now = datetime.now(UTC)  # a slot may have begun while no learner ran
        clock.add_job(outliving_the_store(learner.queue_by_time), slots, next_run_time=now)
    return clock


def outliving_the_store(job: Callable[[], None]) -> Callable[[], None]:
    """A full disk, a database that is away, or a run that was taken over ends one try of a job, not the learner."""

    def run() -> None:
        try:
            job()
        except StoreError as error:
            log.error("%s", error)
        except LeaseLost as error:
            log.warning("%s", error)

    return run
