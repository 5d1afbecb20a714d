"""One run: snapshot → curate → train → evaluate → gate → publish → ask for it to go live, and nothing else.

Every phase leaves its result in the run's folder, whole or not at all, and looks there first, so that a run killed at
any point goes on, or starts that phase again. The transaction that registers the adapter also ends the run and asks for
the adapter to go live, and only while this process holds the lease: so a run makes one adapter, however often it died.
If a judgement that it learned from was withdrawn meanwhile, the run begins afresh without it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from learner.batch import WAITING
from learner.curate import Curated, curate
from learner.curves import draw
from learner.disk_space import WAITING_FOR_SPACE, once_there_is_space
from learner.metrics import Metrics, read_metrics
from learner.run_folder import RunFolder, finite
from learner.run_lock import alone_in
from learner.snapshot import FORMAT_VERSION, FrozenFeedback, Tokenize, collect, read_snapshot, write_snapshot
from learner.summary import describe, learned_from, why_nothing
from learner.tensorboard import Board
from learner.trackers import Trackers
from learner.trainer import (
    BY_REWARD,
    Keep,
    MakeTrainer,
    Stage,
    Trainer,
    as_labels,
    from_scores,
    judgements_of_taste,
    learn_taste,
    stages_of,
)
from service.adapters.fingerprint import base_fingerprint
from service.adapters.manifest import BaseModelIdentity, Provenance
from service.adapters.registry import Registry
from service.errors import BadInput, NotFound, StoreError, TrainingFailed
from service.settings import Settings
from service.store.queries import adapters, feedback, runs
from service.store.queries.adapters import BASE
from service.store.session import Store
from service.store.tables import Run

log = logging.getLogger("hone.learner")

LEARNER = "learner"
"""The name under which a run asks for its adapter to go live."""

ROLLOUT_SECONDS = 10.0
"""How long a run waits for the adapter of the one before to go live, so as to start from it; a service may be away."""

WHEN_AND_HOW = ("method", "every_minutes", "after_feedback", "auto_promote", "max_attempts", "lease_seconds",
                "tick_seconds", "threads", "niceness", "trackers", "rollout_urls", "rollout_wait_seconds",
                "rollout_tolerance", "checkpoint_minutes")  # fmt: skip
"""Settings of the learner that change nothing about the adapter."""

LOOK_SECONDS = 0.1
SECONDS_BETWEEN_SAYING = 0.5
"""How often a training tells the store how far it is; the metrics file has every step."""

MOST_BEGINNINGS = 3
"""How often an attempt begins afresh because feedback was withdrawn while it trained."""


class Stopped(Exception):
    """The daemon asked this process to stop; the run goes on later."""


class TakenBack(Exception):
    """A judgement that the run learned from was withdrawn before its adapter was published."""


@dataclass
class Cycle:
    """One attempt at one run. `stop_asked` may be set at any time; the next step then raises Stopped.

    `max_length`: the longest example, in tokens, that the base model takes; None: any.
    """

    settings: Settings
    store: Store
    run_id: str
    fence: int
    tokenize: Tokenize
    make_trainer: MakeTrainer
    max_length: int | None = None
    stop_asked: bool = False
    _said: tuple[str, float] = field(default=("", 0.0))

    def __post_init__(self) -> None:
        self.folder = RunFolder.of(self.settings, self.run_id)
        self._metrics = Metrics(self.folder.metrics)
        self._board = Board(self.folder.events)
        learner = self.settings.learner
        self._trackers = Trackers(learner.trackers, self.run_id, learner.model_dump(mode="json"), self.folder.path)

    def run(self) -> None:
        """Go through all phases. Raises LeaseLost when another process has taken over, HoneError when it can't be."""
        with alone_in(self.folder.path, self.run_id, waiting=lambda: self._say("snapshot", 0, 1)):
            self._say("snapshot", 0, 1)  # is it still ours?
            self.folder.write_settings(self.settings)
            if _differ(self.folder.recipe, recipe := self._recipe()):
                log.info("Settings or the base model have changed since it began: it begins afresh.")
                self.folder.start_over()
            self.folder.write_recipe(recipe)
            for _ in range(MOST_BEGINNINGS):
                try:
                    return self._go_through()
                except TakenBack:
                    log.info("Feedback that it learned from was withdrawn: it begins afresh without that.")
        raise TrainingFailed("Feedback was withdrawn again and again while it was learned from.", "Learn again.")

    def _go_through(self) -> None:
        started = time.monotonic()
        frozen, lessons, run = self._learn_what()
        stages = self._without_what_the_parent_knows(run, frozen, lessons, self._stages(run, lessons))
        if not stages:
            self._finish_without(lessons, run)
            return
        parent, remark = self._parent(run.parent)
        said = f"{describe(frozen, lessons, stages)} {remark}".strip()
        log.info("%s", said)
        self._say("train", 0, 1)  # to load the model takes its time, too
        trainer = self.make_trainer(parent, self._keep(run, lessons))
        self._train(trainer, stages, lessons)
        report = self._evaluate(trainer, stages, lessons)
        report |= {"feedback": lessons.counts, "seconds": round(time.monotonic() - started, 2), "attempt": run.attempt}
        self._say("publish", 0, 1)
        self._publish(run, self._provenance(run, frozen, trainer.probes(lessons)), report, said)
        shutil.rmtree(self.folder.adapter, ignore_errors=True)  # the registry has it

    def _recipe(self) -> dict[str, Any]:
        """What an adapter depends on beside the feedback: another attempt goes on only with the same."""
        learner = self.settings.learner.model_dump(mode="json", exclude=set(WHEN_AND_HOW))
        by_reward = {name: getattr(self.settings, name).model_dump(mode="json") for name in BY_REWARD}
        recipe = {"base_sha256": self._base_sha256(), "learner": learner, "snapshot_format": FORMAT_VERSION}
        return recipe | by_reward

    def _base_sha256(self) -> str | None:
        """The fingerprint of the base model; None while it is not on this machine: training fetches it."""
        try:
            return base_fingerprint(self.settings.model_path)
        except BadInput:
            return None

    def _learn_what(self) -> tuple[FrozenFeedback, Curated, Run]:
        """Freeze the feedback, or take what this run froze in an earlier attempt, and choose from it."""
        run = self._say("snapshot", 0, 1)
        if run.snapshot_hash is None or not self.folder.snapshot.exists() or self._was_taken_back():
            self.folder.start_over()
            self._wait_for_the_run_before()
            run.snapshot_hash, run.parent = None, self._freeze()
        frozen = read_snapshot(self.folder.snapshot, run.snapshot_hash)
        self._say("curate", 0, 1)
        lessons = curate(frozen, self.settings.learner, self.max_length)
        names = learned_from(lessons, self._stages(run, lessons))
        with self.store.begin() as tx:
            runs.set_snapshot(tx, self.run_id, self.fence, frozen.hash, frozen.position, names, parent=run.parent)
        return frozen, lessons, run

    def _stages(self, run: Run, lessons: Curated) -> tuple[Stage, ...]:
        return stages_of(run.method, lessons.train, self.settings.learner.preferences)

    def _without_what_the_parent_knows(
        self, run: Run, frozen: FrozenFeedback, lessons: Curated, stages: tuple[Stage, ...]
    ) -> tuple[Stage, ...]:
        """Beside new corrections, preferences that the parent was trained on are not trained on once more."""
        if run.method != "auto" or "sft" not in stages or not learn_taste(stages) or run.parent is None:
            return stages
        with self.store.read() as tx:
            known, position = runs.learned_by(tx, run.parent)
        known -= {one.feedback_id for one in frozen.judgements if one.position > position}  # changed since
        taste = judgements_of_taste(lessons.train) if "dpo" in stages else as_labels(lessons.train)
        scored = lessons.train.scored if from_scores(stages) else ()
        told = {name for part in (taste, scored) for one in part for name in one.feedback_ids}
        return ("sft",) if told <= known else stages

    def _wait_for_the_run_before(self) -> None:
        deadline = time.monotonic() + ROLLOUT_SECONDS
        while time.monotonic() < deadline:
            with self.store.read() as tx:
                if adapters.serving(tx).requested_by != LEARNER:
                    return
            self._say("snapshot", 0, 1)
            time.sleep(LOOK_SECONDS)

    def _freeze(self) -> str | None:
        """Write the snapshot; returns the parent: what is live, or what it comes from where that learned from feedback
        that was withdrawn since; None (the base) where that was made for another base model."""
        engine = self.settings.engine
        served_as = engine.model if not engine.urls else None  # an engine elsewhere may name its model otherwise
        base_sha256 = self._base_sha256()
        with self.store.read() as tx:
            frozen = collect(tx, feedback.last_position(tx), self.tokenize, served_as, base_sha256)
            live = adapters.serving(tx).live
            clean = runs.without_withdrawn(tx, live) if live != BASE else None
        write_snapshot(frozen, self.folder.snapshot)
        return clean if clean is not None and self._is_of_this_base(clean) else None

    def _is_of_this_base(self, name: str) -> bool:
        _, manifest = Registry.of(self.settings, self.store).check(name)
        return manifest.base.sha256 == base_fingerprint(self.settings.model_path)

    def _was_taken_back(self) -> bool:
        with self.store.read() as tx:
            return feedback.withdrawn_of_run(tx, self.run_id) > 0

    def _parent(self, name: str | None) -> tuple[Path | None, str]:
        """Its folder, and what is to be said of where the run starts from."""
        with self.store.read() as tx:
            live = adapters.serving(tx).live
            clean = runs.without_withdrawn(tx, live) if live != BASE else None
        remark = ""
        if live not in (BASE, clean):
            remark = f"It starts from {name or 'the base'}: {live} knows feedback that was withdrawn."
        if name is None:
            is_strange = clean is not None and not self._is_of_this_base(clean)
            return None, f"It starts from the base: {clean} was made for another one." if is_strange else remark
        folder, manifest = Registry.of(self.settings, self.store).check(name)
        if manifest.rank != self.settings.learner.rank:
            remark += f" It keeps the rank {manifest.rank} of {name}; learner.rank is for what starts from the base."
        return folder, remark.strip()

    def _keep(self, run: Run, lessons: Curated) -> Keep:
        """The base's replies are kept where nothing but corrections was ever learned: what each of many runs moves a
        little, the next one puts back."""
        if learn_taste(stages_of("auto", lessons.train, self.settings.learner.preferences)):
            return "policy"
        with self.store.read() as tx:
            return "base" if run.parent is None or runs.of_corrections_alone(tx, run.parent) else "policy"

    def _train(self, trainer: Trainer, stages: tuple[Stage, ...], lessons: Curated) -> None:
        """Leaves the trained adapter in the run's folder; a second attempt takes it from there."""
        if self.folder.adapter.exists():
            trainer.restore(self.folder.adapter)
            return
        ended_well = False
        try:
            trainer.train(stages, lessons, self.folder.checkpoint, self._progress("train"))
            ended_well = True
        finally:
            self._board.close()
            self._trackers.close(ended_well)
        once_there_is_space(partial(self._save, trainer, lessons), self._wait_for_space)
        shutil.rmtree(self.folder.checkpoint, ignore_errors=True)

    def _save(self, trainer: Trainer, lessons: Curated) -> None:
        """The curves and the adapter, whole or not at all; of one that can't be written nothing is left."""
        unfinished = self.folder.path / "adapter.partial"
        self._metrics.write()
        try:
            draw(read_metrics(self.folder.metrics), self.folder.curves)
            shutil.rmtree(unfinished, ignore_errors=True)
            trainer.save(unfinished, lessons)
            unfinished.rename(self.folder.adapter)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _wait_for_space(self) -> None:
        with suppress(StoreError):  # whose disk may be the full one
            self._say(WAITING_FOR_SPACE, 0, 1)

    def _evaluate(self, trainer: Trainer, stages: tuple[Stage, ...], lessons: Curated) -> dict[str, Any]:
        self._say("evaluate", 0, 1)
        report = self.folder.read_report()
        if report is None:
            report = dict(finite(trainer.evaluate(stages, lessons, self._progress("evaluate"))))
            self.folder.write_report(report)
        return report

    def _publish(self, run: Run, provenance: Provenance, report: dict[str, Any], said: str) -> None:
        """Everything that makes the adapter exist, the run end and the wish to go live, or nothing of it."""
        registry = Registry.of(self.settings, self.store)
        registry.recover(self.run_id)  # what an attempt before this one may have left half-done
        kept = {name: value for name, value in report.items() if name != "samples"}
        reasons = " ".join(gate["reason"] for gate in report["gates"] if not gate["passed"])

        def end_run(tx: Session, name: str) -> None:
            if feedback.withdrawn_of_run(tx, self.run_id):
                raise TakenBack("Feedback that it learned from was withdrawn.")
            if reasons:
                adapters.set_state(tx, name, "rejected", "gate", reasons)
                message = f"The gate rejected {name}: {reasons} {said}"
                runs.finish_run(tx, self.run_id, self.fence, "rejected", message, adapter=name)
                return
            message = f"{name} passed every gate. {said}"
            if wait := self._why_wait(tx, run):
                message += f" {wait}"
            else:
                adapters.request_live(tx, name, LEARNER, "It passed every gate.")
            runs.finish_run(tx, self.run_id, self.fence, "succeeded", message, adapter=name)

        name = registry.publish(self.folder.adapter, provenance, kept, said, end_run)
        log.info("%s is published.", name)

    def _why_wait(self, tx: Session, run: Run) -> str:
        """Why a candidate that passed is not to go live by itself; empty when it is."""
        wish, desired = run.options.get("promote"), adapters.serving(tx)
        if not (self.settings.learner.auto_promote if wish is None else wish):
            return "It waits for an operator to promote it."
        if desired.requested is not None and desired.requested_by != LEARNER:
            return f"{desired.requested_by} asked for {desired.requested} meanwhile, so it waits for an operator."
        flip = adapters.last_flip(tx)
        if flip is not None and flip.actor not in (LEARNER, adapters.ROLLOUT):
            if run.started_at is not None and flip.at > run.started_at:
                return f"{flip.actor} made {flip.adapter} live meanwhile, so it waits for an operator."
            if wish is None and (left := adapters.newest_left(tx)):
                return f"{flip.actor} went back from {left} to {flip.adapter}, so it waits for an operator."
        if (adapters.number_of(desired.live) or 0) < (adapters.number_of(run.parent or BASE) or 0):
            return f"{run.parent}, which it started from, was rolled back meanwhile, so it waits for an operator."
        return ""

    def _provenance(self, run: Run, frozen: FrozenFeedback, probes: list[dict[str, Any]]) -> Provenance:
        config = json.loads((self.folder.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        base = BaseModelIdentity(
            name=self.settings.engine.model,
            sha256=base_fingerprint(self.settings.model_path),
            quantisation="nf4" if self.settings.learner.quantise == "nf4" else None,
        )
        return Provenance.model_validate(
            {
                "parent": run.parent,
                "run_id": self.run_id,
                "base": base,
                "rank": config["r"],
                "alpha": config["lora_alpha"],
                "target_modules": tuple(sorted(config["target_modules"])),
                "method": run.method,
                "snapshot_hash": frozen.hash,
                "probes": probes,
            }
        )

    def _finish_without(self, lessons: Curated, run: Run) -> None:
        message = why_nothing(lessons, run.method)
        with self.store.begin() as tx:
            message = f"{message} {self._go_back(tx, run, lessons)}".strip()
            runs.finish_run(tx, self.run_id, self.fence, "nothing_to_learn", message)
        self.folder.write_report({"feedback": lessons.counts, "message": message})
        log.info("%s", message)

    def _go_back(self, tx: Session, run: Run, lessons: Curated) -> str:
        """Where what is live knows feedback that was withdrawn, and no method has anything left to learn: ask for what
        it comes from to go live, if a candidate would. Returns what is to be said of it."""
        desired = adapters.serving(tx)
        if desired.live == BASE or (clean := runs.without_withdrawn(tx, desired.live) or BASE) == desired.live:
            return ""
        why = f"{desired.live} knows feedback that was withdrawn"
        if stages_of("auto", lessons.train, self.settings.learner.preferences):
            return f"{why}: a run of the method auto learns the rest without it."
        if desired.requested is not None or self._why_wait(tx, run):
            return f"{why}: `hone adapters rollback {clean}` takes it out."
        adapters.request_live(tx, clean, LEARNER, f"{why}, and nothing is left to learn from.")
        return f"{why}, so {clean} goes live."

    def _say(self, phase: str, step: int, steps: int, stage: str = "") -> Run:
        """Tell the store how far the run is, and hear whether it is still ours. Raises LeaseLost, Stopped.

        `stage`: what of the phase these are the steps of. To wait is no step forward.
        """
        if self.stop_asked:
            raise Stopped
        with self.store.begin() as tx:
            reached = None if phase == WAITING else stage or phase
            runs.progress(tx, self.run_id, self.fence, phase, step, steps, reached)
            run = runs.get_run(tx, self.run_id)
        if run is None:
            raise NotFound(f"There is no run {self.run_id}.")
        if phase != self._said[0]:
            log.info("Phase %s.", phase)
        self._said = phase, time.monotonic()
        return run

    def _progress(self, phase: str) -> Any:
        """What a method calls at every step: the metrics file hears all of it, the store a little."""

        def progress(stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
            if self.stop_asked:
                raise Stopped
            if metrics:
                self._metrics.add(stage, step, steps, metrics)
                self._board.add(stage, step, metrics)
                self._trackers.add(stage, step, metrics)
            shown = WAITING if stage == WAITING else phase
            said, when = self._said
            if said != shown or step in (0, steps) or time.monotonic() - when > SECONDS_BETWEEN_SAYING:
                self._say(shown, step, steps, stage)

        return progress


def _differ(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether an earlier attempt had another recipe. A base model that wasn't here yet had no hash: no difference."""
    if before is None:
        return False
    names = set(before) | set(now)
    if None in (before.get("base_sha256"), now.get("base_sha256")):
        names.discard("base_sha256")
    return any(before.get(name) != now.get(name) for name in names)
