from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from learner import metrics
from learner.batch import WAITING, Progress
from learner.child import work
from learner.curate import Curated
from learner.cycle import Cycle
from learner.metrics import read_metrics
from learner.run_progress import Stopped
from learner.trainer import Keep, Stage
from service.adapters.files import check_folder
from service.adapters.fingerprint import base_fingerprint
from service.adapters.registry import Registry
from service.errors import BadInput, EngineUnavailable, LeaseLost, StoreError, TrainingFailed
from service.settings import AdaptersSettings
from service.store.queries import adapters, feedback, runs, serving
from service.store.tables import Run
from service.wire import Score, Thumb
from tests.fixtures.schema import check_manifest
from tests.learner.store_fixtures import Home, tokenize
from tests.learner.store_fixtures import home as home


class Killed(BaseException):
    """What a kill -9 is to the code it hits: nothing of it runs any more."""


class Pretender:
    """Trains nothing, writes a well-formed adapter, and calls `at(place)` where a kill may come."""

    def __init__(self, at: Callable[[str], None] = lambda place: None, gates: tuple[str, ...] = ()) -> None:
        self.at, self.failing = at, gates
        self.parents: list[Path | None] = []
        self.keeps: list[Keep] = []
        self.done: list[str] = []

    def make(self, parent: Path | None, keep: Keep) -> Pretender:
        self.parents.append(parent)
        self.keeps.append(keep)
        return self

    def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated:
        self.at("write")
        return lessons

    def train(self, stages: tuple[Stage, ...], lessons: Curated, checkpoint: Path, progress: Progress) -> None:
        self.done.append("train")
        for stage in stages:
            for step in range(1, 4):
                progress(stage, step, 3, {"loss": 1 / step})
                self.at(f"{stage} {step}")

    def save(self, folder: Path, lessons: Curated) -> None:
        folder.mkdir()
        prefix = "base_model.model.model.layers.0.self_attn.q_proj"
        shapes = {f"{prefix}.lora_A.weight": (2, 8), f"{prefix}.lora_B.weight": (8, 2)}
        save_file(
            {name: np.ones(shape, np.float32) for name, shape in shapes.items()}, folder / "adapter_model.safetensors"
        )
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "target_modules": ["q_proj"], "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        self.at("saved")

    def restore(self, folder: Path) -> None:
        self.done.append("restore")

    def evaluate(self, stages: tuple[Stage, ...], lessons: Curated, progress: Progress) -> dict[str, Any]:
        self.done.append("evaluate")
        self.at("evaluate")
        gates = [{"name": name, "passed": False, "reason": f"{name} is not met."} for name in self.failing]
        return {"gates": gates, "fluency": -0.01, "samples": [{"prompt": "hi", "reply": "ho"}], "odd": float("nan")}

    def probes(self, lessons: Curated) -> list[dict[str, Any]]:
        self.at("publish")
        return [{"prompt_token_ids": [1], "token_ids": [2], "logprobs": [-1.0], "base_logprobs": [-2.0]}]


@pytest.fixture(autouse=True)
def small_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The built-in model's weights are not what is tested here."""
    monkeypatch.setattr("learner.cycle.base_fingerprint", lambda model: "0" * 64)
    yield


def queue(home: Home, **options: object) -> str:
    with home.store.begin() as tx:
        run = runs.queue_run(tx, f"command-{options}", "command", "auto", dict(options))
    assert run is not None
    return run.id


def lease(home: Home) -> runs.Lease:
    with home.store.begin() as tx:
        leased = runs.lease_run(tx, "test", 60.0, 5)
    assert leased is not None
    return leased


def cycle(home: Home, leased: runs.Lease, trainer: Pretender) -> Cycle:
    return Cycle(home.settings, home.store, leased.run_id, leased.fence, tokenize, trainer.make)


def give_back(home: Home, leased: runs.Lease) -> None:
    with home.store.begin() as tx:
        runs.release_run(tx, leased.run_id, leased.fence, died=True)


def the_run(home: Home, run_id: str) -> Run:
    with home.store.read() as tx:
        run = runs.get_run(tx, run_id)
    assert run is not None
    return run


def adapters_of(home: Home) -> dict[str, str]:
    with home.store.read() as tx:
        return {adapter.name: adapter.state for adapter in adapters.list_adapters(tx)}


def learn_v1(home: Home) -> None:
    """A first run, which makes a candidate of one correction."""
    home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()


def requested(home: Home) -> str | None:
    with home.store.read() as tx:
        return serving.desired_state(tx).requested


def test_a_run_leaves_an_adapter_and_everything_about_it(home: Home) -> None:
    kept = home.correct("it is Lyon", "it is Paris")
    home.compare("yes", "certainly so", "b")
    home.judge(Thumb(exchange_id=home.chat("no", caller="name:eve"), good=True), "name:eve")  # which waits for more
    run_id = queue(home)
    cycle(home, lease(home), Pretender()).run()
    run = the_run(home, run_id)
    assert (run.state, run.adapter, run.parent) == ("succeeded", "v1", None)
    assert "1 correction and 2 pairs of 1 person" in run.message
    assert "Not used: 1 × a thumb without an opposite one" in run.message
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
    assert seen == ["train", "waiting for the engine", "waiting for the engine", "train"]
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


def test_a_candidate_that_fails_a_gate_is_rejected_with_the_reasons_and_not_asked_for(home: Home) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    cycle(home, lease(home), Pretender(gates=("fluency",))).run()
    run = the_run(home, run_id)
    assert run.state == "rejected" and "fluency is not met." in run.message
    assert adapters_of(home) == {"v1": "rejected"}
    assert requested(home) is None


@pytest.mark.parametrize("wish", [False, None])
def test_without_the_wish_to_promote_a_candidate_waits_for_an_operator(tmp_path: Path, wish: bool | None) -> None:
    home = Home(tmp_path, auto_promote=wish is not None)
    home.correct("a", "bb")
    run_id = queue(home, promote=wish)
    cycle(home, lease(home), Pretender()).run()
    assert "waits for an operator" in the_run(home, run_id).message
    assert requested(home) is None
    home.store.close()


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


PLACES = ("sft 1", "sft 3", "dpo 2", "saved", "evaluate", "publish")


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_is_killed_anywhere_goes_on_and_makes_one_adapter(home: Home, place: str) -> None:
    home.correct("a", "bb")
    home.compare("yes", "certainly so", "b")
    run_id = queue(home)
    first = lease(home)

    def die(here: str) -> None:
        if here == place:
            raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    frozen_as = the_run(home, run_id).snapshot_hash
    home.correct("a", "ccc")  # too late for this run, whose snapshot is frozen
    give_back(home, first)
    second = Pretender()
    cycle(home, lease(home), second).run()
    run = the_run(home, run_id)
    assert (run.state, run.attempt) == ("succeeded", 2)
    assert run.snapshot_hash == frozen_as
    assert [state for state in adapters_of(home).values() if state != "rejected"] == ["candidate"]
    assert requested(home) == run.adapter
    assert ("train" in second.done) == (place not in ("evaluate", "publish"))
    steps = [
        (line["phase"], line["step"]) for line in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")
    ]
    assert len(steps) == len(set(steps)) == 6
    left = {path.name for path in home.settings.adapters_folder.iterdir() if not path.name.startswith(".")}
    assert left == {run.adapter}


@pytest.mark.parametrize("place", ["sft 3", "evaluate", "publish"])
def test_a_learner_whose_run_was_taken_over_publishes_nothing(home: Home, place: str) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    first = lease(home)

    def lose(here: str) -> None:
        if here == place:
            give_back(home, first)
            lease(home)

    with pytest.raises(LeaseLost):
        cycle(home, first, Pretender(lose)).run()
    assert the_run(home, run_id).state == "running"
    assert "candidate" not in adapters_of(home).values()
    assert requested(home) is None


def test_a_cancelled_run_publishes_nothing(home: Home) -> None:
    home.correct("a", "bb")
    run_id = queue(home)

    def cancel(here: str) -> None:
        if here == "publish":
            with home.store.begin() as tx:
                runs.cancel_run(tx, run_id)

    with pytest.raises(LeaseLost):
        cycle(home, lease(home), Pretender(cancel)).run()
    assert "candidate" not in adapters_of(home).values()


def test_a_training_that_is_asked_to_stop_stops_at_the_next_step(home: Home) -> None:
    home.correct("a", "bb")
    queue(home)

    def stop(here: str) -> None:
        if here == "sft 2":
            running.stop()

    running = cycle(home, lease(home), Pretender(stop))
    with pytest.raises(Stopped):
        running.run()


def withdraw(home: Home, name: str) -> None:
    with home.store.begin() as tx:
        feedback.withdraw_feedback(tx, "name:ann", name)


@pytest.mark.parametrize("place", ["sft 2", "evaluate", "publish"])
def test_feedback_that_is_withdrawn_while_it_is_learned_from_is_not_published(home: Home, place: str) -> None:
    kept, secret = home.correct("a", "bb"), home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home)

    def take_back(here: str) -> None:
        if here == place:
            withdraw(home, secret)

    trainer = Pretender(take_back)
    cycle(home, lease(home), trainer).run()
    assert trainer.done.count("train") == 2
    run = the_run(home, run_id)
    assert run.state == "succeeded" and "1 correction of" in run.message
    text = (home.settings.runs_folder / run_id / "snapshot.jsonl").read_text()
    assert kept in text and secret not in text
    assert [name for name, state in adapters_of(home).items() if state == "candidate"] == [run.adapter]
    with home.store.read() as tx:
        assert feedback.get_feedback(tx, "name:ann", secret).learned_in == ()


def test_an_attempt_begins_afresh_when_feedback_was_withdrawn_since_the_one_before(home: Home) -> None:
    home.correct("a", "bb")
    secret = home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home)
    first = lease(home)

    def die(here: str) -> None:
        if here == "evaluate":
            raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    withdraw(home, secret)
    give_back(home, first)
    second = Pretender()
    cycle(home, lease(home), second).run()
    assert second.done == ["train", "evaluate"]
    assert secret not in (home.settings.runs_folder / run_id / "snapshot.jsonl").read_text()


def test_who_withdraws_again_and_again_can_not_keep_a_run_busy_for_ever(home: Home) -> None:
    given = [home.correct("a", "b" * number, prompt=(1, number)) for number in range(2, 8)]
    queue(home)

    def take_back(here: str) -> None:
        if here == "publish":
            withdraw(home, given.pop())

    with pytest.raises(TrainingFailed, match="withdrawn again and again"):
        cycle(home, lease(home), Pretender(take_back)).run()
    assert "candidate" not in adapters_of(home).values()


def test_a_candidate_does_not_undo_a_roll_back_by_itself(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.flip_live(tx, "v1", "test", "proven")
    run_id = queue(home, again=True)

    def roll_back(here: str) -> None:
        if here == "evaluate":
            with home.store.begin() as tx:
                serving.flip_live(tx, "base", "operator", "v1 is rude")

    cycle(home, lease(home), Pretender(roll_back)).run()
    assert "operator made base live meanwhile" in the_run(home, run_id).message
    assert adapters_of(home)["v2"] == "candidate" and requested(home) is None


def go_live(home: Home, name: str, actor: str = "learner") -> None:
    with home.store.begin() as tx:
        serving.flip_live(tx, name, actor, "proven")


def test_a_candidate_does_not_take_over_from_what_an_operator_promoted_meanwhile(home: Home) -> None:
    learn_v1(home)
    home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home, again=True)

    def promote(here: str) -> None:
        if here == "evaluate":
            go_live(home, "v1", "name:op")

    cycle(home, lease(home), Pretender(promote)).run()
    assert "name:op made v1 live meanwhile" in the_run(home, run_id).message
    assert requested(home) is None


def test_after_an_operator_went_back_candidates_wait_until_one_is_promoted(home: Home) -> None:
    learn_v1(home)
    go_live(home, "v1")
    go_live(home, "base", "name:op")
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert "name:op went back from v1 to base, so it waits" in the_run(home, run_id).message
    assert requested(home) is None
    queue(home, promote=True)  # by whom "learn now, and promote it" was said, that is meant
    cycle(home, lease(home), Pretender()).run()
    assert requested(home) == "v3"
    go_live(home, "v3", "name:op")
    queue(home, third=True)
    cycle(home, lease(home), Pretender()).run()
    assert requested(home) == "v4"


def test_the_base_s_replies_are_kept_while_nothing_but_corrections_was_learned(home: Home) -> None:
    keeps = []
    for number, learn in enumerate(("correction", "correction", "comparison", "correction")):
        if learn == "comparison":
            home.compare("yes", "certainly so", "b", prompt=(1, 9))
        else:
            home.correct("a", "bb", prompt=(1, 10 + number))
        trainer = Pretender()
        queue(home, number=number)
        cycle(home, lease(home), trainer).run()
        go_live(home, f"v{number + 1}")
        keeps += trainer.keeps
    assert keeps == ["base", "base", "policy", "policy"]


def test_what_an_imported_adapter_says_is_kept(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        assert runs.of_corrections_alone(tx, "v1")
        imported = adapters.get_adapter(tx, "v1")
        assert imported is not None
        imported.run_id = None
    go_live(home, "v1")
    home.correct("a", "ccc", prompt=(1, 9))
    trainer = Pretender()
    queue(home, again=True)
    cycle(home, lease(home), trainer).run()
    assert trainer.keeps == ["policy"]


def test_what_was_withdrawn_later_is_unlearned_by_the_next_run(home: Home) -> None:
    secret = home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v1")
    home.correct("a", "ccc", prompt=(1, 9))
    queue(home, second=True)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v2")
    withdraw(home, secret)
    run_id, trainer = queue(home, third=True), Pretender()
    cycle(home, lease(home), trainer).run()
    assert trainer.parents == [None] and the_run(home, run_id).parent is None
    assert "It starts from the base: v2 knows feedback that was withdrawn." in the_run(home, run_id).message
    go_live(home, "v3")
    queue(home, fourth=True)
    after = Pretender()
    cycle(home, lease(home), after).run()
    assert after.parents == [home.settings.adapters_folder / "v3"]


@pytest.mark.parametrize("how", ["other lessons", "not to be promoted", "an operator went back"])
def test_what_knows_withdrawn_feedback_stays_live_where_a_candidate_would_wait_or_there_is_more_to_learn(
    home: Home, how: str
) -> None:
    secret = home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v1")
    if how == "other lessons":
        home.correct("a", "ccc", prompt=(1, 9), complete=False)  # of a reply that was cut off: it makes no pair
        with home.store.begin() as tx:
            run = runs.queue_run(tx, "command-again", "command", "dpo", {})
        assert run is not None
        run_id = run.id
    else:
        if how == "an operator went back":
            queue(home, second=True)
            cycle(home, lease(home), Pretender()).run()
            go_live(home, "v2")
            go_live(home, "v1", "name:op")
        run_id = queue(home, again=True, **({"promote": False} if how == "not to be promoted" else {}))
    withdraw(home, secret)
    cycle(home, lease(home), Pretender()).run()
    said = the_run(home, run_id)
    assert said.state == "nothing_to_learn"
    assert "v1 knows feedback that was withdrawn: " in said.message
    assert requested(home) is None


def test_where_all_was_withdrawn_what_was_live_before_goes_live_again(home: Home) -> None:
    secret = home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v1")
    withdraw(home, secret)
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert the_run(home, run_id).state == "nothing_to_learn"
    assert "v1 knows feedback that was withdrawn, so base goes live." in the_run(home, run_id).message
    assert requested(home) == "base"


def test_a_candidate_does_not_drop_what_an_operator_asked_for(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.request_live(tx, "v1", "operator", "I like it")
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert "asked for v1 meanwhile" in the_run(home, run_id).message
    assert requested(home) == "v1"


def test_an_adapter_of_another_base_model_is_no_parent(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.flip_live(tx, "v1", "test", "proven")
    monkeypatch.setattr("learner.cycle.base_fingerprint", lambda model: "1" * 64)
    run_id = queue(home, again=True)
    trainer = Pretender()
    cycle(home, lease(home), trainer).run()
    assert trainer.parents == [None] and the_run(home, run_id).parent is None
    assert "It starts from the base: v1 was made for another one." in the_run(home, run_id).message


def test_a_base_model_that_came_with_the_first_attempt_is_no_other_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.correct("a", "bb")
    queue(home)
    first = lease(home)

    def missing(model: str) -> str:
        raise BadInput("It isn't here yet.")

    def die(place: str) -> None:
        monkeypatch.setattr("learner.cycle.base_fingerprint", base_fingerprint)  # training has fetched it
        if place == "evaluate":
            raise Killed

    monkeypatch.setattr("learner.cycle.base_fingerprint", missing)
    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    give_back(home, first)
    second = Pretender()
    cycle(home, lease(home), second).run()
    assert "train" not in second.done


@pytest.mark.parametrize("what", ["settings", "base", "niceness"])
def test_a_run_whose_settings_or_base_changed_after_a_kill_begins_afresh(
    home: Home, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    first = lease(home)

    def die(place: str) -> None:
        if place == "evaluate":
            raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    give_back(home, first)
    if what == "base":
        monkeypatch.setattr("learner.cycle.base_fingerprint", lambda model: "1" * 64)
    else:
        change = {"sft_epochs": 3} if what == "settings" else {"niceness": 3}
        learner = home.settings.learner.model_copy(update=change)
        home.settings = home.settings.model_copy(update={"learner": learner})
    second = Pretender()
    cycle(home, lease(home), second).run()
    assert ("train" in second.done) == (what != "niceness")
    assert the_run(home, run_id).state == "succeeded"


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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "metrics.jsonl"), "can't read or write metrics.jsonl: No space left"),
        (StoreError("The database is full.", "Free some space."), "The database is full. Free some space."),
        (EngineUnavailable("The training waited 900 s for the engine."), "The training waited 900 s for the engine."),
    ],
)
def test_a_full_disk_or_an_engine_that_stays_away_is_tried_again_and_then_fails_the_run_in_plain_words(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def full(self: Cycle) -> None:
        raise error

    monkeypatch.setattr(Cycle, "run", full)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests' own process keeps its SIGTERM
    home.correct("a", "bb")
    run_id = queue(home)
    for attempt in range(home.settings.learner.max_attempts):
        assert the_run(home, run_id).state in ("queued", "running")
        leased = lease(home)
        code = work(home.settings, home.store, run_id, leased.fence)
        assert (code == 0) == (attempt == home.settings.learner.max_attempts - 1)
        if code:
            give_back(home, leased)
    assert the_run(home, run_id).state == "failed" and said in the_run(home, run_id).message


def test_a_full_disk_under_the_metrics_costs_no_attempt(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor a line, where there is space again by the end."""
    real, fulls = metrics._append, [1, 1]

    def full(path: Path, text: str) -> None:
        if fulls and fulls.pop():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, text)

    monkeypatch.setattr(metrics, "_append", full)
    home.correct("a", "bb")
    run_id, trainer = queue(home), Pretender()
    cycle(home, lease(home), trainer).run()
    assert the_run(home, run_id).state == "succeeded" and trainer.done == ["train", "evaluate"]
    assert caplog.text.count("metrics.jsonl can't be written (No space left on device).") == 1
    folder = home.settings.runs_folder / run_id
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("full", ["save", "curves"])
def test_a_trained_adapter_waits_in_memory_for_space_on_the_disk(
    home: Home, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    monkeypatch.setattr("learner.disk_space.FIRST_PAUSE", 0.01)
    home.correct("a", "bb")
    run_id, phases = queue(home), list[str]()

    def fill() -> None:
        phases.append(the_run(home, run_id).phase)
        if len(phases) < 3:
            raise OSError(errno.ENOSPC, "No space left on device", "adapter")

    trainer = Pretender(lambda place: fill() if place == "saved" and full == "save" else None)
    if full == "curves":
        monkeypatch.setattr("learner.cycle.draw", lambda *_: fill())
    cycle(home, lease(home), trainer).run()
    assert phases == ["train", "waiting for space", "waiting for space"]
    assert trainer.done == ["train", "evaluate"]
    assert the_run(home, run_id).state == "succeeded" and adapters_of(home) == {"v1": "candidate"}


def test_where_there_is_no_space_for_long_nothing_unfinished_stays_and_it_is_said_in_plain_words(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.disk_space.LIMIT_SECONDS", 0.0)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests' own process keeps its SIGTERM
    home.settings = home.settings.model_copy(
        update={"learner": home.settings.learner.model_copy(update={"max_attempts": 1})}
    )
    home.correct("a", "bb")
    run_id = queue(home)

    def fill(place: str) -> None:
        if place == "saved":
            raise OSError(errno.ENOSPC, "No space left on device", "adapter_model.safetensors")

    trainer = Pretender(fill)
    monkeypatch.setattr(Cycle, "__post_init__", patched(Cycle.__post_init__, trainer))
    leased = lease(home)
    assert work(home.settings, home.store, run_id, leased.fence) == 0
    run = the_run(home, run_id)
    assert run.state == "failed"
    assert "can't read or write adapter_model.safetensors: No space left on device. Free some space" in run.message
    assert not (home.settings.runs_folder / run_id / "adapter.partial").exists()


def patched(post_init: Callable[[Cycle], None], trainer: Pretender) -> Callable[[Cycle], None]:
    """Has a cycle train with the pretender."""

    def instead(self: Cycle) -> None:
        post_init(self)
        self.make_trainer = trainer.make

    return instead


def test_the_next_run_starts_from_the_live_adapter(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.flip_live(tx, "v1", "test", "proven")
    home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home, again=True)
    trainer = Pretender()
    cycle(home, lease(home), trainer).run()
    assert trainer.parents == [home.settings.adapters_folder / "v1"]
    assert the_run(home, run_id).parent == "v1"


@pytest.mark.parametrize("news", ["none", "another comparison", "a changed one"])
def test_a_correction_does_not_have_what_the_parent_prefers_trained_again(home: Home, news: str) -> None:
    home.correct("a", "bb")
    compared = home.compare("yes", "certainly so", "b", prompt=(1, 7))
    for number in range(3):
        if number == 2 and news == "another comparison":
            home.compare("no", "certainly not", "b", prompt=(1, 8))
        if number == 2 and news == "a changed one":
            with home.store.begin() as tx:
                judged = feedback.get_feedback(tx, "name:ann", compared).feedback
                changed = judged.model_copy(update={"strength": 3})
                feedback.change_feedback(tx, "name:ann", compared, changed)
        home.correct("a", "ccc", prompt=(1, 9 + number))
        run_id = queue(home, number=number)
        trainer = Pretender()
        cycle(home, lease(home), trainer).run()
        with home.store.begin() as tx:
            serving.flip_live(tx, f"v{number + 1}", "test", "proven")
        stages = {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")}
        assert stages == ({"sft"} if number == 1 or (number == 2 and news == "none") else {"sft", "dpo"})
    with home.store.read() as tx:
        learned_in = feedback.get_feedback(tx, "name:ann", compared).learned_in
    assert learned_in == (("v3",) if news == "a changed one" else ("v1", "v3"))


def give_thumbs(home: Home, good: int, bad: int) -> list[str]:
    return [
        home.judge(Thumb(exchange_id=home.chat("yes", prompt=(1, 40 + number)), good=number < good))
        for number in range(good + bad)
    ]


def test_single_thumbs_teach_and_it_is_said_of_them(home: Home) -> None:
    names = give_thumbs(home, 4, 5)
    run_id, trainer = queue(home), Pretender()
    cycle(home, lease(home), trainer).run()
    run = the_run(home, run_id)
    assert (run.state, run.adapter) == ("succeeded", "v1")
    assert "It learned from 4 good and 5 bad replies of 1 person; 0 replies held out." in run.message
    assert "Not used" not in run.message
    assert trainer.keeps == ["policy"]
    assert {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")} == {"kto"}
    with home.store.read() as tx:
        assert {feedback.get_feedback(tx, "name:ann", name).learned_in for name in names} == {("v1",)}
    go_live(home, "v1")
    withdraw(home, names[0])
    again = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert the_run(home, again).state == "nothing_to_learn"  # three good ones are too few
    assert "8 × a thumb without an opposite one" in the_run(home, again).message
    assert requested(home) == "base"


def test_thumbs_are_asked_for_by_name_and_wait_beside_pairs(tmp_path: Path) -> None:
    home = Home(tmp_path, held_out_share=0.001)
    names = give_thumbs(home, 4, 4)
    compared = [home.compare("yes", "certainly so", "b", prompt=(1, 80 + number, 2)) for number in range(4)]
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    with home.store.begin() as tx:
        run = runs.queue_run(tx, "thumbs only", "command", "kto", {})
    cycle(home, lease(home), Pretender()).run()
    assert run is not None and the_run(home, run.id).adapter == "v2"
    with home.store.read() as tx:
        learned = {name: feedback.get_feedback(tx, "name:ann", name).learned_in for name in (*names, *compared)}
        assert {learned[name] for name in names} == {("v2",)}
        assert {learned[name] for name in compared} == {("v1", "v2")}  # their better replies are good ones, too
        assert not runs.of_corrections_alone(tx, "v2")


def test_too_few_thumbs_of_a_kind_teach_nothing_and_it_is_said_why(home: Home) -> None:
    give_thumbs(home, 9, 1)
    run_id = queue(home)
    cycle(home, lease(home), Pretender()).run()
    run = the_run(home, run_id)
    assert run.state == "nothing_to_learn" and "(10 thumbs)" in run.message and "4 good and 4 bad" in run.message


def test_single_scores_teach_a_reward_model_and_no_other_method_which_says_so(home: Home) -> None:
    names = [
        home.judge(Score(exchange_id=home.chat("yes", prompt=(1, 30 + number)), score=9 if number % 2 else 2))
        for number in range(8)
    ]
    run_id = queue(home)
    cycle(home, lease(home), Pretender()).run()
    run = the_run(home, run_id)
    assert run.state == "nothing_to_learn" and "8 × a score without another one" in run.message
    with home.store.begin() as tx:
        by_reward = runs.queue_run(tx, "by reward", "command", "ppo", {})
    cycle(home, lease(home), Pretender()).run()
    assert by_reward is not None and "8 scored replies of 1 person" in the_run(home, by_reward.id).message
    with home.store.read() as tx:
        assert {feedback.get_feedback(tx, "name:ann", name).learned_in for name in names} == {("v1",)}


@pytest.mark.parametrize("news", ["none", "another thumb"])
def test_a_correction_does_not_have_the_thumbs_that_the_parent_learned_from_trained_again(
    home: Home, news: str
) -> None:
    give_thumbs(home, 4, 4)
    for number in range(2):
        if number == 1 and news == "another thumb":
            home.judge(Thumb(exchange_id=home.chat("yes", prompt=(1, 99)), good=False))
        home.correct("a", "ccc", prompt=(1, 9 + number))
        run_id = queue(home, number=number)
        cycle(home, lease(home), Pretender()).run()
        go_live(home, f"v{number + 1}")
        stages = {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")}
        assert stages == ({"sft"} if number == 1 and news == "none" else {"sft", "kto"})


def test_a_run_starts_from_the_adapter_of_the_one_before_although_that_is_still_on_its_way(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    assert requested(home) == "v1"
    looks: list[float] = []

    def the_rollout_goes_on(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            with home.store.begin() as tx:
                serving.fulfil_request(tx, "v1", "proven")

    monkeypatch.setattr("learner.cycle.time.sleep", the_rollout_goes_on)
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert the_run(home, run_id).parent == "v1" and len(looks) == 3


def test_a_run_does_not_wait_for_ever_for_a_service_that_is_away(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.cycle.ROLLOUT_SECONDS", 0.2)
    home.correct("a", "bb")
    for again in (False, True):
        run_id = queue(home, again=again)
        cycle(home, lease(home), Pretender()).run()
    assert the_run(home, run_id).parent is None
    assert requested(home) == "v2"


def test_a_snapshot_that_was_tampered_with_stops_the_run(home: Home) -> None:
    home.correct("a", "bb")
    run_id = queue(home)
    first = lease(home)

    def die(here: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        cycle(home, first, Pretender(die)).run()
    path = home.settings.runs_folder / run_id / "snapshot.jsonl"
    path.write_text(path.read_text() + "\n")
    give_back(home, first)
    with pytest.raises(TrainingFailed, match="has changed since it was frozen"):
        cycle(home, lease(home), Pretender()).run()


def test_scores_that_are_new_are_learned_from_beside_what_the_parent_knows(home: Home) -> None:
    learner = home.settings.learner.model_copy(update={"preferences": "ppo"})
    home.settings = home.settings.model_copy(update={"learner": learner})

    def score(first: int) -> None:
        for number in range(10):
            exchange = home.chat("yes", prompt=(1, first + number))
            home.judge(Score(exchange_id=exchange, score=9 if number % 2 else 2))

    home.correct("a", "bb")
    score(40)
    for number, stages in enumerate(({"sft", "ppo"}, {"sft"}, {"sft", "ppo"})):
        if number:
            home.correct("a", "ccc", prompt=(1, 9 + number))
        if number == 2:
            score(60)
        run_id = queue(home, number=number)
        cycle(home, lease(home), Pretender()).run()
        with home.store.begin() as tx:
            serving.flip_live(tx, f"v{number + 1}", "test", "proven")
        assert {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")} == stages
