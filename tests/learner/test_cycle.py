"""A cycle leaves an adapter and everything about it, or says why there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from learner.batch import WAITING, Progress
from learner.curate import Curated
from learner.metrics import read_metrics
from learner.trainer import Stage
from service.adapters.files import check_folder
from service.adapters.registry import Registry
from service.settings import AdaptersSettings
from service.store.queries import adapters, feedback, runs, serving
from service.wire import Thumb
from tests.fixtures.schema import check_manifest
from tests.learner.pretend_training import Pretender, adapters_of, cycle, learn_v1, requested
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


def test_a_run_leaves_an_adapter_and_everything_about_it(home: Home) -> None:
    kept = home.correct("it is Lyon", "it is Paris")
    home.compare("yes", "certainly so", "b")
    home.judge(Thumb(exchange_id=home.chat("no", caller="name:eve"), good=True), "name:eve")  # which waits for more
    run_id = queue(home)
    cycle(home, lease(home), Pretender()).run()
    run = the_run(home, run_id)
    assert (run.state, run.adapter, run.parent) == ("succeeded", "v1", None)
    assert "1 correction and 2 pairs of 1 person" in run.message
    assert "Not used: 1 single thumb (" in run.message
    assert adapters_of(home) == {"v1": "candidate"}
    assert requested(home) == "v1"
    manifest = check_folder(home.settings.adapters_folder / "v1")
    assert check_manifest(home.settings.adapters_folder / "v1")["run_id"] == run_id
    assert (manifest.run_id, manifest.snapshot_hash) == (run_id, run.snapshot_hash)
    folder = home.settings.runs_folder / run_id
    for name in ("settings.json", "snapshot.jsonl", "metrics.jsonl", "samples.jsonl", "report.json", "curves.png"):
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "report.json").read_text())["odd"] is None
    assert [(line["phase"], line["step"]) for line in read_metrics(folder / "metrics.jsonl")] == [
        (phase, step) for phase in ("sft", "dpo") for step in (1, 2, 3)
    ]
    with home.store.read() as tx:
        assert feedback.get_feedback(tx, "name:ann", kept).learned_in == ("v1",)


def test_a_run_says_what_was_skipped_and_which_limit_was_not_kept(home: Home) -> None:
    class Remarking(Pretender):
        def evaluate(self, *rest: Any) -> dict[str, Any]:
            said = ["sft skipped 2 steps without a finite loss."]
            return super().evaluate(*rest) | {"training": {"skipped_steps": 2, "remarks": said}}

    home.correct("a", "bb")
    run_id = queue(home)
    cycle(home, lease(home), Remarking()).run()
    assert the_run(home, run_id).message.endswith("held out. sft skipped 2 steps without a finite loss.")


def test_a_run_says_so_while_it_waits_for_the_engine(home: Home) -> None:
    home.correct("a", "bb")
    run_id, seen = queue(home), list[str]()
    leased = lease(home)

    class Waiting(Pretender):
        def train(self, stages: tuple[Stage, ...], lessons: Curated, checkpoint: Path, progress: Progress) -> None:
            for stage in ("ppo", WAITING, WAITING, "ppo"):
                progress(stage, 1, 3, {})
                seen.append(the_run(home, run_id).phase)
            super().train(stages, lessons, checkpoint, progress)

    cycle(home, leased, Waiting()).run()
    assert seen == ["train: ppo", "waiting for the engine", "waiting for the engine", "train: ppo"]
    furthest = the_run(home, run_id).furthest
    assert WAITING not in furthest and {"ppo": 1, "sft": 3, "evaluate": 0, "publish": 0}.items() <= furthest.items()
    assert the_run(home, run_id).state == "succeeded"


@pytest.mark.parametrize(("quantise", "told"), [("nf4", "nf4"), ("none", None)])
def test_the_manifest_says_what_the_base_was_in(tmp_path: Path, quantise: str, told: str | None) -> None:
    home = Home(tmp_path, quantise=quantise)
    learn_v1(home)
    assert check_folder(home.settings.adapters_folder / "v1").base.quantisation == told
    assert check_manifest(home.settings.adapters_folder / "v1")["base"]["quantisation"] == told
    home.store.close()


def test_what_is_learned_goes_to_the_place_that_homes_share(home: Home, tmp_path: Path) -> None:
    shared = AdaptersSettings(url=f"file://{tmp_path}/shared")
    home.settings = home.settings.model_copy(update={"adapters": shared})
    learn_v1(home)
    elsewhere = Registry.of(home.settings.model_copy(update={"home": tmp_path / "elsewhere"}), home.store)
    path, _ = elsewhere.check("v1")
    assert path == tmp_path / "elsewhere" / "adapters" / "v1"
    with home.store.begin() as tx:
        serving.flip_live(tx, "v1", "test", "proven")
    home.settings = home.settings.model_copy(update={"home": tmp_path / "another"})
    home.correct("a", "ccc", prompt=(1, 9))
    queue(home, again=True)
    trainer = Pretender()
    cycle(home, lease(home), trainer).run()  # this home has none of it, and fetches the parent
    assert trainer.parents == [tmp_path / "another" / "adapters" / "v1"]
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"v1", "v2"}


def test_nothing_to_learn_says_why(home: Home) -> None:
    run_id = queue(home)
    cycle(home, lease(home), Pretender()).run()
    assert the_run(home, run_id).state == "nothing_to_learn"
    assert the_run(home, run_id).message == "There is no feedback to learn from."
    home.compare("a", "bb", "tie")
    home.compare("a", "bb", "both_bad", prompt=(1, 2))
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    run = the_run(home, run_id)
    assert run.state == "nothing_to_learn" and "2 comparisons" in run.message and "both replies" in run.message
    assert run.feedback_position == 2
    assert adapters_of(home) == {}


def test_a_figure_that_is_no_number_is_stored_as_null(home: Home) -> None:
    home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    with home.store.read() as tx:
        adapter = adapters.get_adapter(tx, "v1")
    assert adapter is not None and adapter.report["odd"] is None


def test_only_what_a_stage_trained_on_counts_as_learned(home: Home) -> None:
    corrected, compared = home.correct("a", "bb"), home.compare("yes", "certainly so", "b", prompt=(1, 9))
    with home.store.begin() as tx:
        run = runs.queue_run(tx, "corrections only", "command", "sft", {})
    cycle(home, lease(home), Pretender()).run()
    assert run is not None and "It learned from 1 correction of 1 person;" in the_run(home, run.id).message
    with home.store.read() as tx:
        assert feedback.get_feedback(tx, "name:ann", corrected).learned_in == ("v1",)
        assert feedback.get_feedback(tx, "name:ann", compared).learned_in == ()
