"""`hone learn --once`: queue one run, unless one waits already or one that would learn the same was broken off; work on
it here, and show how far it is."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from learner.constitution.named_judge import check_judge
from learner.daemon import Learner, is_gone, outliving_the_store
from learner.parents import Parents
from learner.progress_bar import ProgressBar
from learner.trainer import settings_of
from service.errors import Stopped, StoreError, TrainingFailed
from service.settings import Settings
from service.store.queries import adapters, constitutions, feedback, runs, serving
from service.store.queries.adapters import BASE
from service.store.session import Store
from service.store.tables import Run

BROKEN_OFF = ("failed", "cancelled")
OVER = ("succeeded", "rejected", "nothing_to_learn", *BROKEN_OFF)
LOOK_SECONDS = 0.2
AWAY_SECONDS = 2.0
"""Until a store that is away is asked again."""

log = logging.getLogger("hone.learner")


def learn_once(
    settings: Settings,
    method: str | None = None,
    promote: bool | None = None,
    as_json: bool = False,
    parent: str | None = None,
    service: Callable[[Settings], str | None] = lambda _: None,
) -> int:
    """Returns the exit code: 0 when the run came to an end of its own. A learner that runs already may take the run;
    then this only watches. `parent`: what the run starts from, else from what is live; `service`: finds the address of
    the service over this home, where one runs. Raises as `settings_of`, `Parents.anchor`, `Parents.check` and
    `check_judge`, with no run queued, and Stopped, having given the run back, when told to end (SIGTERM, Ctrl-C)."""
    settings_of(method or settings.learner.method, settings)
    store = Store.open(settings.store_url, checkpoints=False)
    learner = Learner(settings, store)
    try:
        parents = Parents(settings, store)
        parents.anchor()
        if parent is not None:
            parents.check(parent)
        check_judge(settings, store, method or settings.learner.method)
        with _told_to_end() as told:
            asked = _to_go_on_with(store, parents, method or settings.learner.method, promote, parent)
            if asked is not None:
                when = f" once its lease is over, within {settings.learner.lease_seconds:g} seconds"
                when = when if asked.state == "running" else ""
                said = f"Run {asked.id} goes on{when}: it was broken off, and nobody works on it."
            else:
                with store.begin() as tx:
                    asked, is_new = runs.ask_for_run(tx, method, promote, settings.learner.method, parent)
                said = "" if is_new else f"Run {asked.id} was waiting already: this is that one."
            if said and not as_json:
                Console(stderr=True).print(said, highlight=False, soft_wrap=True)
            run = _work_until_over(settings, store, learner, asked.id, as_json, told)
            if run is None:
                learner.stop()
                raise Stopped("Stopped.", _what_becomes_of(store, asked.id))
        its_adapter = "" if as_json else _what_becomes_of_its_adapter(store, run, partial(service, settings))
    finally:
        learner.stop()
        store.close()
    if as_json:
        sys.stdout.write(json.dumps(as_plain(run)) + "\n")
    else:
        Console().print(f"[bold]{run.state.replace('_', ' ')}[/]: {escape(run.message)}")
        if its_adapter:
            Console().print(its_adapter, highlight=False)
    return TrainingFailed.exit_code if run.state in BROKEN_OFF else 0


def _to_go_on_with(store: Store, parents: Parents, method: str, promote: bool | None, parent: str | None) -> Run | None:
    """The run of this method that was broken off, where a new one would learn the same again."""
    with store.read() as tx:
        run = runs.broken_off(tx, method, runs.wishes(promote, parent), is_gone)
        if run is None or run.snapshot_hash is None:  # nothing is frozen: it learns what a new one would
            return run
        version = constitutions.in_effect(tx)
        is_newer = version is not None and run.started_at is not None and version.created_at > run.started_at
        if is_newer or feedback.last_position(tx) != run.feedback_position:
            return None
    return run if parents.choose(run) == run.parent else None


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """Set by SIGTERM and SIGINT for as long as the block lasts: nothing is broken off between two steps."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _what_becomes_of(store: Store, run_id: str) -> str:
    try:
        with store.read() as tx:
            run = runs.get_run(tx, run_id)
    except StoreError:
        return f"Run {run_id} is given back when its lease is over: the store is away."
    if run is not None and run.state in OVER:
        return f"Run {run_id} is over ({run.state.replace('_', ' ')}): {run.message}"
    if run is None or run.state != "queued":
        return f"Run {run_id} is {'gone' if run is None else run.state}."
    return f"Run {run_id} is given back: the next `hone learn` goes on with it."


def _what_becomes_of_its_adapter(store: Store, run: Run, service: Callable[[], str | None]) -> str:
    """Where it passed: whether it is live, or when it will be; and how a run starts from it before that."""
    with store.read() as tx:
        desired = serving.desired_state(tx)
        adapter = adapters.get_adapter(tx, run.adapter) if run.adapter is not None else None
    if run.state != "succeeded" or run.adapter is None:
        return ""
    if run.adapter == desired.live:
        return f"{run.adapter} is live."
    if adapter is not None and adapter.state == "rejected":  # a service that runs has tried it already
        return f"{run.adapter} did not go live: {adapter.reason}"
    if desired.requested == run.adapter:
        url = service()
        when = (
            f"{run.adapter} goes live by itself once the service at {url} has loaded and proven it; "
            "`hone adapters list` shows what is live."
            if url is not None
            else f"No service over this home answers here: {run.adapter} goes live once one has loaded and proven it "
            "(`hone up` starts one)."
        )
    else:
        when = f"`hone adapters promote {run.adapter}` asks for it to go live."
    live = "the base" if desired.live == BASE else desired.live
    return f"{when} Until then a run starts from {live}; with `--parent {run.adapter}` it starts from {run.adapter}."


def _work_until_over(
    settings: Settings, store: Store, learner: Learner, run_id: str, quiet: bool, told: threading.Event
) -> Run | None:
    """The run as it ended; None where this was told to end before it."""
    work, beat, beaten = outliving_the_store(learner.work), outliving_the_store(learner.beat), time.monotonic()
    with ProgressBar(quiet) as bar:
        told_of = ""
        while not told.is_set():
            work()
            if time.monotonic() - beaten > settings.learner.lease_seconds / 4:
                beat()
                beaten = time.monotonic()
            try:
                with store.read() as tx:
                    run, before = runs.get_run(tx, run_id), runs.under_way(tx)
            except StoreError as error:
                log.error("%s", error)
                told.wait(AWAY_SECONDS)
                continue
            assert run is not None  # runs are never deleted
            if run.state in OVER:
                bar.end(run.state.replace("_", " "), run.state not in BROKEN_OFF)
                return run
            first = before if run.state == "queued" and before is not None and before.id != run.id else None
            if first is not None and first.id != told_of and not quiet:
                told_of = first.id
                is_others = runs.is_worked_on(first, is_gone) and first.leased_by != learner.name
                how = "is under way" if is_others else "was broken off and goes on first"
                bar.say(f"Run {told_of} {how}: this one, {run_id}, begins after it.")
            at_work, whose = (run, "") if first is None else (first, f"{first.id}, ")
            bar.show(f"{whose}{at_work.phase or at_work.state}", at_work.step, at_work.steps)
            told.wait(LOOK_SECONDS)
    return None


def as_plain(run: Run) -> dict[str, Any]:
    """A run as JSON, by the names of the HTTP API."""
    names = "id state trigger method attempt created_at started_at finished_at phase step steps parent adapter"
    values = {name: getattr(run, name) for name in (*names.split(), "snapshot_hash", "message")}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
