"""One run: snapshot → curate → train → evaluate → gate → publish → ask for it to go live, and nothing else.

Every phase leaves its result in the run's folder, whole or not at all, and looks there first, so that a run killed at
any point goes on, or starts that phase again. The transaction that registers the adapter also ends the run and asks for
the adapter to go live, and only while this process holds the lease: so a run makes one adapter, however often it died.
If a judgement that it learned from was withdrawn meanwhile, the run begins afresh without it.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from learner.base_tokenizer import Tokenize
from learner.constitution.in_effect import freeze, in_effect, read_frozen
from learner.constitution.named_judge import check_judge
from learner.curate import Curated, curate
from learner.curves import draw
from learner.disk_space import WAITING_FOR_SPACE, once_there_is_space
from learner.evaluate.frontier import draw_frontier
from learner.metrics import read_metrics
from learner.parents import Parents, asked_for
from learner.provenance import provenance_of
from learner.publish import Publisher, TakenBack
from learner.recipe import differ, recipe_of
from learner.run_folder import RunFolder, finite
from learner.run_lock import alone_in
from learner.run_progress import RunProgress
from learner.snapshot import NO_CONSTITUTION, FrozenFeedback, collect, read_snapshot, write_snapshot
from learner.summary import describe, learned_from
from learner.trainer import (
    CONSTITUTIONAL,
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
from service.adapters.fingerprint import base_fingerprint, fingerprint_if_known
from service.constitution.versions import Version
from service.errors import BadInput, StoreError, TrainingFailed
from service.settings import Settings
from service.store.queries import feedback, runs, serving
from service.store.queries.adapters import LEARNER
from service.store.session import Store
from service.store.tables import Run

log = logging.getLogger("hone.learner")

ROLLOUT_SECONDS = 10.0
"""How long a run waits for the adapter of the one before to go live, so as to start from it; a service may be away."""

LOOK_SECONDS = 0.1
MOST_BEGINNINGS = 3
"""How often an attempt begins afresh because feedback was withdrawn while it trained."""


@dataclass
class Cycle:
    """One attempt at one run. `max_length`: the longest example, in tokens, that the base model takes; None: any."""

    settings: Settings
    store: Store
    run_id: str
    fence: int
    tokenize: Tokenize
    make_trainer: MakeTrainer
    max_length: int | None = None

    def __post_init__(self) -> None:
        self.folder = RunFolder.of(self.settings, self.run_id)
        self._progress = RunProgress(self.settings, self.store, self.run_id, self.fence, self.folder)
        self._say = self._progress.say
        self._parents = Parents(self.settings, self.store)
        self._publisher = Publisher(self.settings, self.store, self.fence, self.folder)

    def stop(self) -> None:
        """At any time: the next step raises Stopped."""
        self._progress.stop()

    def run(self) -> None:
        """Go through all phases. Raises LeaseLost when another process has taken over, HoneError when it can't be."""
        with alone_in(self.folder.path, self.run_id, waiting=lambda: self._say("snapshot", 0, 1)):
            self._say("snapshot", 0, 1)  # is it still ours?
            self.folder.write_settings(self.settings)
            if differ(self.folder.recipe, recipe := self._recipe()):
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
            self._publisher.finish_without(run, lessons)
            return
        parent, remark = self._parents.folder_of(run)
        anchor = self._parents.anchor_of(run)
        remark = f"{remark} {self._parents.of_the_anchor(anchor and anchor[1].name)}".strip()
        check_judge(self.settings, self.store, run.method)
        self._say("train", 0, 1)  # to load the model takes its time, too
        trainer = self.make_trainer(parent, self._keep(run, lessons), anchor and anchor[0])
        lessons = trainer.write(run.method, lessons, self.folder.path, self._progress.of("train"))
        stages = self._without_what_the_parent_knows(run, frozen, lessons, self._stages(run, lessons))
        if not stages:  # what people criticised has come to nothing
            self._publisher.finish_without(run, lessons)
            return
        self._record(run, frozen, learned_from(lessons, self._stages(run, lessons)))
        said = f"{describe(frozen, lessons, stages)} {remark}".strip()
        log.info("%s", said)
        self._train(trainer, stages, lessons)
        report = self._evaluate(trainer, stages, lessons)
        report |= {"feedback": lessons.counts, "seconds": round(time.monotonic() - started, 2), "attempt": run.attempt}
        self._say("publish", 0, 1)
        said = " ".join([said, *report.get("training", {}).get("remarks", [])])
        base_sha256 = base_fingerprint(self.settings.model_path)
        provenance = provenance_of(
            run, frozen, lessons, trainer.probes(lessons), self.settings, base_sha256, self.folder, anchor and anchor[1]
        )
        self._publisher.publish(run, provenance, report, said)
        shutil.rmtree(self.folder.adapter, ignore_errors=True)  # the registry has it

    def _recipe(self) -> dict[str, Any]:
        return recipe_of(self.settings, self._base_sha256(), self._parents.anchor())

    def _base_sha256(self) -> str | None:
        """The fingerprint of the base model; None while it is not on this machine: training fetches it."""
        return fingerprint_if_known(self.settings.model_path)

    def _learn_what(self) -> tuple[FrozenFeedback, Curated, Run]:
        """Freeze the feedback, or take what this run froze in an earlier attempt, and choose from it."""
        run = self._say("snapshot", 0, 1)
        if run.snapshot_hash is None or not self.folder.snapshot.exists() or self._was_taken_back():
            self.folder.start_over()
            if asked_for(run) is None:
                self._wait_for_the_run_before()
            self._freeze(run.method)
            run.snapshot_hash, run.parent = None, self._parents.choose(run)
        frozen = read_snapshot(self.folder.snapshot, run.snapshot_hash)
        self._say("curate", 0, 1)
        if run.method != "rl-cai":  # what principles prefer is learned where that was asked for
            frozen = replace(frozen, revisions=())
        lessons = curate(frozen, self.settings.learner, self.max_length)
        if frozen.constitution != NO_CONSTITUTION:
            lessons = replace(lessons, constitution=read_frozen(self.folder.constitution, frozen.constitution))
        else:
            lessons = lessons.without_constitution()
        self._record(run, frozen, learned_from(lessons, self._stages(run, lessons)))
        return frozen, lessons, run

    def _record(self, run: Run, frozen: FrozenFeedback, names: list[str]) -> None:
        """Which feedback the run learns from."""
        with self.store.begin() as tx:
            runs.set_snapshot(tx, self.run_id, self.fence, frozen.hash, frozen.position, names, parent=run.parent)

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
                if serving.desired_state(tx).requested_by != LEARNER:
                    return
            self._say("snapshot", 0, 1)
            time.sleep(LOOK_SECONDS)

    def _freeze(self, method: str) -> None:
        """Write the snapshot, and the constitution in effect."""
        engine = self.settings.engine
        served_as = engine.model if not engine.urls else None  # an engine elsewhere may name its model otherwise
        base_sha256 = self._base_sha256()
        version = self._version_in_effect(method)
        if version is not None:
            freeze(version, self.folder.constitution)
        identity = version.identity if version is not None else NO_CONSTITUTION
        with self.store.read() as tx:
            position = feedback.last_position(tx)
            frozen = collect(tx, position, self.tokenize, served_as, base_sha256, identity)
        write_snapshot(frozen, self.folder.snapshot)

    def _version_in_effect(self, method: str) -> Version | None:
        """None where this Hone can't read it, or none of its principles has one of `constitution.tags`: people's
        feedback is learned from all the same. Raises TrainingFailed for a method that goes by it."""
        with self.store.read() as tx:
            try:
                version = in_effect(tx)
                version.constitution.tagged(self.settings.constitution.tags)
                return version
            except BadInput as error:
                if method in CONSTITUTIONAL:
                    raise TrainingFailed(error.message, error.hint) from error
                log.warning("Nothing is measured by the constitution: %s", error)
                return None

    def _was_taken_back(self) -> bool:
        with self.store.read() as tx:
            return feedback.withdrawn_of_run(tx, self.run_id) > 0

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
            trainer.train(stages, lessons, self.folder.checkpoint, self._progress.of("train"))
            ended_well = True
        finally:
            self._progress.record.close(ended_well)
        once_there_is_space(partial(self._save, trainer, lessons), self._wait_for_space)
        shutil.rmtree(self.folder.checkpoint, ignore_errors=True)

    def _save(self, trainer: Trainer, lessons: Curated) -> None:
        """The curves and the adapter, whole or not at all; of one that can't be written nothing is left."""
        unfinished = self.folder.path / "adapter.partial"
        self._progress.record.write_metrics()
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
            report = dict(finite(trainer.evaluate(stages, lessons, self._progress.of("evaluate"))))
            self.folder.write_report(report)
        draw_frontier(report.get("constitution") or {}, self.folder.frontier)
        return report
