"""How a run ends: one transaction registers its adapter, ends it and asks for the adapter to go live, or does none of
that; and only while this process holds the lease. Where there was nothing to learn, what is live may have to go back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from learner.curate import Curated
from learner.parents import asked_for
from learner.run_folder import RunFolder
from learner.summary import why_nothing
from learner.trainer import stages_of
from service.adapters.manifest import Provenance
from service.adapters.registry import Registry
from service.settings import Settings
from service.store.queries import adapters, feedback, runs, serving
from service.store.queries.adapters import BASE, GATE, LEARNER
from service.store.session import Store
from service.store.tables import Run

log = logging.getLogger("hone.learner")


class TakenBack(Exception):
    """A judgement that the run learned from was withdrawn before its adapter was published."""


@dataclass(frozen=True)
class Publisher:
    """Of one attempt at a run. Both ways to end it raise LeaseLost where another process has taken over."""

    settings: Settings
    store: Store
    fence: int
    folder: RunFolder

    def publish(self, run: Run, provenance: Provenance, report: dict[str, Any], said: str) -> None:
        """Everything that makes the adapter exist, the run end and the wish to go live, or nothing of it."""
        registry = Registry.of(self.settings, self.store)
        registry.recover(run.id)  # what an attempt before this one may have left half-done
        kept = {name: value for name, value in report.items() if name != "samples"}
        reasons = " ".join(gate["reason"] for gate in report["gates"] if not gate["passed"])

        def end_run(tx: Session, name: str) -> None:
            if feedback.withdrawn_of_run(tx, run.id):
                raise TakenBack("Feedback that it learned from was withdrawn.")
            if reasons:
                serving.set_state(tx, name, "rejected", GATE, reasons)
                message = f"The gate rejected {name}: {reasons} What is live stays; more feedback may mend it. {said}"
                runs.finish_run(tx, run.id, self.fence, "rejected", message, adapter=name)
                return
            message = f"{name} passed every gate. {said}"
            if wait := self._why_wait(tx, run):
                message += f" {wait}"
            else:
                serving.request_live(tx, name, LEARNER, "It passed every gate.")
            runs.finish_run(tx, run.id, self.fence, "succeeded", message, adapter=name)

        name = registry.publish(self.folder.adapter, provenance, kept, said, end_run)
        log.info("%s is published.", name)

    def _why_wait(self, tx: Session, run: Run) -> str:
        """Why a candidate that passed is not to go live by itself; empty when it is."""
        wish, desired = run.options.get("promote"), serving.desired_state(tx)
        if not (self.settings.learner.auto_promote if wish is None else wish):
            return "It waits for an operator to promote it."
        if desired.requested is not None and desired.requested_by != LEARNER:
            return f"{desired.requested_by} asked for {desired.requested} meanwhile, so it waits for an operator."
        flip = serving.last_flip(tx)
        if flip is not None and flip.actor not in (LEARNER, adapters.ROLLOUT):
            if run.started_at is not None and flip.at > run.started_at:
                return f"{flip.actor} made {flip.adapter} live meanwhile, so it waits for an operator."
            if wish is None and (left := serving.newest_left(tx)):
                return f"{flip.actor} went back from {left} to {flip.adapter}, so it waits for an operator."
        is_behind = (adapters.number_of(desired.live) or 0) < (adapters.number_of(run.parent or BASE) or 0)
        if is_behind and asked_for(run) is None:
            return f"{run.parent}, which it started from, was rolled back meanwhile, so it waits for an operator."
        return ""

    def finish_without(self, run: Run, lessons: Curated) -> None:
        """Of a run that has nothing to learn."""
        message = why_nothing(lessons, run.method)
        with self.store.begin() as tx:
            message = f"{message} {self._go_back(tx, run, lessons)}".strip()
            runs.finish_run(tx, run.id, self.fence, "nothing_to_learn", message)
        self.folder.write_report({"feedback": lessons.counts, "message": message})
        log.info("%s", message)

    def _go_back(self, tx: Session, run: Run, lessons: Curated) -> str:
        """Where what is live knows feedback that was withdrawn, and no method has anything left to learn: ask for what
        it comes from to go live, if a candidate would. Returns what is to be said of it."""
        desired = serving.desired_state(tx)
        if desired.live == BASE or (clean := runs.without_withdrawn(tx, desired.live) or BASE) == desired.live:
            return ""
        why = f"{desired.live} knows feedback that was withdrawn"
        if stages_of("auto", lessons.train, self.settings.learner.preferences):
            return f"{why}: a run of the method auto learns the rest without it."
        if desired.requested is not None or self._why_wait(tx, run):
            return f"{why}: `hone adapters rollback {clean}` takes it out."
        serving.request_live(tx, clean, LEARNER, f"{why}, and nothing is left to learn from.")
        return f"{why}, so {clean} goes live."
