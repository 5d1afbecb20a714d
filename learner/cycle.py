"""One run: snapshot → curate → train → evaluate → gate → publish → ask for it to go live, and nothing else.

    python -m learner.cycle --home HOME --run RUN --fence FENCE        (started by learner.daemon)

Every phase leaves its result in the run's folder, whole or not at all, and looks there first, so that a run killed at
any point goes on, or starts that phase again. The transaction that registers the adapter also ends the run and asks for
the adapter to go live, and only while this process holds the lease: so a run makes one adapter, however often it died.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from learner.curate import Curated, curate
from learner.curves import draw
from learner.run_folder import Metrics, RunFolder, read_metrics
from learner.snapshot import FrozenFeedback, Tokenize, collect, read_snapshot, reply_tokenizer, write_snapshot
from learner.trainer import MakeTrainer, Trainer, stages_of
from service.adapters.fingerprint import base_fingerprint
from service.adapters.manifest import BaseModelIdentity, Provenance
from service.adapters.registry import Registry
from service.errors import HoneError, LeaseLost, NotFound
from service.settings import Settings, load_settings
from service.store.queries import adapters, feedback, runs
from service.store.queries.adapters import BASE
from service.store.session import Store
from service.store.tables import Run

log = logging.getLogger("hone.learner")

SECONDS_BETWEEN_SAYING = 0.5
"""How often a training tells the store how far it is; the metrics file has every step."""


class Stopped(Exception):
    """The daemon asked this process to stop; the run goes on later."""


@dataclass
class Cycle:
    """One attempt at one run. `stop_asked` may be set at any time; the next step then raises Stopped."""

    settings: Settings
    store: Store
    run_id: str
    fence: int
    tokenize: Tokenize
    make_trainer: MakeTrainer
    stop_asked: bool = False
    _said: tuple[str, float] = field(default=("", 0.0))

    def __post_init__(self) -> None:
        self.folder = RunFolder.of(self.settings, self.run_id)
        self._metrics = Metrics(self.folder.metrics)

    def run(self) -> None:
        """Go through all phases. Raises LeaseLost when another process has taken over, HoneError when it can't be."""
        started = time.monotonic()
        self.folder.write_settings(self.settings)
        frozen, lessons, run = self._learn_what()
        stages = stages_of(run.method, lessons.train)
        log.info("%s", _describe(lessons))
        if not stages:
            self._finish_without(lessons, run.method)
            return
        trainer = self.make_trainer(self._parent_folder(run.parent))
        self._train(trainer, stages, lessons)
        report = self._evaluate(trainer, lessons)
        report |= {"feedback": lessons.counts, "seconds": round(time.monotonic() - started, 2), "attempt": run.attempt}
        self._publish(trainer, run, frozen, lessons, report)

    def _learn_what(self) -> tuple[FrozenFeedback, Curated, Run]:
        """Freeze the feedback, or take what this run froze in an earlier attempt, and choose from it."""
        run = self._say("snapshot", 0, 1)
        if run.snapshot_hash is None or not self.folder.snapshot.exists():
            with self.store.read() as tx:
                frozen = collect(tx, feedback.last_position(tx), self.tokenize)
                live = adapters.serving(tx).live
            write_snapshot(frozen, self.folder.snapshot)
            run.snapshot_hash, run.parent = None, None if live == BASE else live
        frozen = read_snapshot(self.folder.snapshot, run.snapshot_hash)
        self._say("curate", 0, 1)
        lessons = curate(frozen, self.settings.learner)
        names = {one.feedback_id for one in lessons.train.demonstrations}
        names |= {name for pair in lessons.train.pairs for name in pair.feedback_ids}
        with self.store.begin() as tx:
            runs.set_snapshot(
                tx, self.run_id, self.fence, frozen.hash, frozen.position, sorted(names), parent=run.parent
            )
        return frozen, lessons, run

    def _parent_folder(self, parent: str | None) -> Path | None:
        if parent is None:
            return None
        folder, _ = Registry(self.store, self.settings.adapters_folder).check(parent)
        return folder

    def _train(self, trainer: Trainer, stages: tuple[Any, ...], lessons: Curated) -> None:
        """Leaves the trained adapter in the run's folder; a second attempt takes it from there."""
        if self.folder.adapter.exists():
            trainer.restore(self.folder.adapter)
            return
        self._say("train", 0, 1)
        trainer.train(stages, lessons, self.folder.checkpoint, self._progress("train"))
        draw(read_metrics(self.folder.metrics), self.folder.curves)
        unfinished = self.folder.path / "adapter.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        trainer.save(unfinished)
        unfinished.rename(self.folder.adapter)

    def _evaluate(self, trainer: Trainer, lessons: Curated) -> dict[str, Any]:
        self._say("evaluate", 0, 1)
        report = self.folder.read_report()
        if report is None:
            report = trainer.evaluate(lessons, self._progress("evaluate"))
            self.folder.write_report(report)
        return report

    def _publish(
        self, trainer: Trainer, run: Run, frozen: FrozenFeedback, lessons: Curated, report: dict[str, Any]
    ) -> None:
        """Everything that makes the adapter exist, the run end and the wish to go live, or nothing of it."""
        self._say("publish", 0, 1)
        registry = Registry(self.store, self.settings.adapters_folder)
        registry.recover()  # what an attempt before this one may have left half-done
        provenance = self._provenance(run, frozen, trainer.probes(lessons))
        kept = {name: value for name, value in report.items() if name != "samples"}
        said = _describe(lessons)

        def end_run(tx: Session, name: str) -> None:
            reasons = [gate["reason"] for gate in report["gates"] if not gate["passed"]]
            if reasons:
                message = f"The gate rejected {name}: {' '.join(reasons)} {said}"
                adapters.set_state(tx, name, "rejected", "gate", " ".join(reasons))
                runs.finish_run(tx, self.run_id, self.fence, "rejected", message, adapter=name)
                return
            message = f"{name} passed every gate. {said}"
            if self._promotes(run):
                adapters.request_live(tx, name, "learner", "It passed every gate.")
            else:
                message += " It waits for an operator to promote it."
            runs.finish_run(tx, self.run_id, self.fence, "succeeded", message, adapter=name)

        name = registry.publish(self.folder.adapter, provenance, kept, said, end_run)
        log.info("%s is published.", name)

    def _promotes(self, run: Run) -> bool:
        wish = run.options.get("promote")
        return self.settings.learner.auto_promote if wish is None else bool(wish)

    def _provenance(self, run: Run, frozen: FrozenFeedback, probes: list[dict[str, Any]]) -> Provenance:
        config = json.loads((self.folder.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        model = self.settings.model_path
        return Provenance.model_validate(
            {
                "parent": run.parent,
                "run_id": self.run_id,
                "base": BaseModelIdentity(name=self.settings.engine.model, sha256=base_fingerprint(model)),
                "rank": config["r"],
                "alpha": config["lora_alpha"],
                "target_modules": tuple(sorted(config["target_modules"])),
                "method": run.method,
                "snapshot_hash": frozen.hash,
                "probes": probes,
            }
        )

    def _finish_without(self, lessons: Curated, method: str) -> None:
        message = _why_nothing(lessons, method)
        self.folder.write_report({"feedback": lessons.counts, "message": message})
        with self.store.begin() as tx:
            runs.finish_run(tx, self.run_id, self.fence, "nothing_to_learn", message)
        log.info("%s", message)

    def _say(self, phase: str, step: int, steps: int) -> Run:
        """Tell the store how far the run is, and hear whether it is still ours. Raises LeaseLost, Stopped."""
        if self.stop_asked:
            raise Stopped
        with self.store.begin() as tx:
            runs.progress(tx, self.run_id, self.fence, phase, step, steps)
            run = runs.get_run(tx, self.run_id)
        if run is None:
            raise NotFound(f"There is no run {self.run_id}.")
        self._said = phase, time.monotonic()
        return run

    def _progress(self, phase: str) -> Any:
        """What a method calls at every step: the metrics file hears all of it, the store a little."""

        def progress(stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
            if self.stop_asked:
                raise Stopped
            if metrics:
                self._metrics.add(stage, step, steps, metrics)
            said, when = self._said
            if said != phase or step == steps or time.monotonic() - when > SECONDS_BETWEEN_SAYING:
                self._say(phase, step, steps)

        return progress


def _describe(lessons: Curated) -> str:
    """What it learned from, in one or two sentences."""
    train, held_out = lessons.counts["train"], lessons.counts["held_out"]
    people = lessons.counts["people"]
    text = (
        f"It learned from {_many(train['demonstrations'], 'correction')} and {_many(train['pairs'], 'pair')} "
        f"of {_many(people, 'person', 'people')}; {_many(held_out['pairs'], 'pair')} held out."
    )
    return text + (f" Not used: {lessons.set_aside}." if lessons.set_aside else "")


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _why_nothing(lessons: Curated, method: str) -> str:
    counts = lessons.counts
    if not counts["judgements"]:
        return "Nobody has given any feedback yet."
    wanted = {"sft": "corrections", "dpo": "pairs of a better and a worse reply"}.get(
        method, "corrections or pairs of a better and a worse reply"
    )
    held = counts["held_out"]["pairs"] + counts["held_out"]["demonstrations"]
    said = ", ".join(_many(count, kind) for kind, count in counts["judgements"].items())
    text = f"There is feedback ({said}), but it holds no {wanted} to learn from."
    if lessons.set_aside:
        text += f" Not used: {lessons.set_aside}."
    return text + (f" Held out for evaluation: {_many(held, 'example')}." if held else "")


STOPPED, LOST, CRASHED = 75, 76, 70
"""Exit codes: asked to stop (the run goes on later), the lease is gone, died of an error nobody foresaw."""


def main() -> int:
    """The child process: settings come as one line on stdin, and the end of stdin means that the daemon has died."""
    parser = argparse.ArgumentParser(prog="python -m learner.cycle", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--fence", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    line = sys.stdin.readline()
    settings = Settings.model_validate_json(line) if line.strip() else load_settings(arguments.home)
    threading.Thread(target=_die_with_the_daemon, daemon=True).start()
    _give_way(settings.learner.niceness)
    store = Store.open(settings.store_url, checkpoints=False)
    try:
        return _work(settings, store, arguments.run, arguments.fence)
    finally:
        store.close()


def _work(settings: Settings, store: Store, run_id: str, fence: int) -> int:
    def make_trainer(parent: Path | None) -> Trainer:
        from learner.backbone_trainer import BackboneTrainer  # loads torch and the model: only when there is a lesson

        return BackboneTrainer(settings, parent)

    cycle = Cycle(settings, store, run_id, fence, reply_tokenizer(settings.model_path), make_trainer)
    signal.signal(signal.SIGTERM, lambda *_: setattr(cycle, "stop_asked", True))
    try:
        cycle.run()
    except Stopped:
        log.info("Stopped; the run goes on later.")
        return STOPPED
    except LeaseLost as error:
        log.warning("%s", error)
        return LOST
    except HoneError as error:
        log.exception("The run failed.")
        with store.begin() as tx:
            runs.finish_run(tx, run_id, fence, "failed", str(error))
    except Exception:
        log.exception("The run died.")
        return CRASHED
    return 0


def _give_way(niceness: int) -> None:
    """Step back for chat. Linux may weigh whole sessions against each other first (autogroup, sched(7)): both yield."""
    os.nice(niceness)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))


def _die_with_the_daemon() -> None:
    """A training that nobody supervises could only waste the machine: its lease will be given to another."""
    while sys.stdin.readline():
        pass
    os._exit(LOST)


if __name__ == "__main__":
    sys.exit(main())
