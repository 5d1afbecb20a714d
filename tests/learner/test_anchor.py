"""A run is held to what `learner.anchor` says: the base, what it starts from, or a version that this comes from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from learner.backbone import Backbone
from learner.backbone_trainer import ANCHOR_SCORES, BackboneTrainer
from learner.loading import ADAPTER_WEIGHTS
from learner.on_texts import learn
from learner.once import learn_once
from learner.parents import Parents
from learner.trainer import Stage
from service.adapters.registry import Registry
from service.errors import BadInput, Conflict, NotFound, SettingsError
from service.settings import EngineSettings, LearnerSettings, PpoSettings, Settings, load_settings
from service.store.queries import runs
from tests.learner.lessons import lessons
from tests.learner.pretend_training import Pretender, cycle, go_live, learn_v1, withdraw
from tests.learner.pretend_training import small_base as small_base
from tests.learner.progress import Heard
from tests.learner.queued_runs import lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import build_tiny_model

QUICK = LearnerSettings(rank=4, alpha=8.0, threads=1, dpo_on="pairs", batch_size=8, reward_epochs=1)
FEW = PpoSettings(advantages="rloo", iterations=2, prompts=4, replies=2, minibatch=8, max_new_tokens=6)


def held_to(home: Home, anchor: str) -> None:
    learner = home.settings.learner.model_copy(update={"anchor": anchor})
    home.settings = home.settings.model_copy(update={"learner": learner})


def learn_more(home: Home, parent: str | None = None) -> tuple[Pretender, str]:
    home.correct("a", f"b{parent}", prompt=(1, 9))
    if parent is None:
        run_id = queue(home, more=True)
    else:
        with home.store.begin() as tx:
            run_id = runs.ask_for_run(tx, parent=parent)[0].id
    trainer = Pretender()
    cycle(home, lease(home), trainer).run()
    return trainer, run_id


@pytest.mark.parametrize("anchor", ["base", "parent", "v1"])
def test_a_run_is_held_to_it_and_manifest_recipe_and_message_say_so(home: Home, anchor: str) -> None:
    learn_v1(home)
    go_live(home, "v1")
    held_to(home, anchor)
    trainer, run_id = learn_more(home)
    registry = Registry.of(home.settings, home.store)
    (folder, of_v1), (_, manifest) = registry.check("v1"), registry.check("v2")
    run = the_run(home, run_id)
    recipe = json.loads((home.settings.runs_folder / run_id / "recipe.json").read_text(encoding="utf-8"))
    assert of_v1.anchor is None and recipe["anchor"] == anchor
    assert trainer.anchors == [None if anchor == "base" else folder]
    assert ("It is held to v1." in run.message) == (anchor != "base")
    if anchor == "base":
        assert manifest.anchor is None
    else:
        assert manifest.anchor is not None
        assert (manifest.anchor.name, manifest.anchor.manifest_sha256) == ("v1", of_v1.hash())


def test_the_first_run_s_parent_is_the_base_and_message_and_log_say_so(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    held_to(home, "parent")
    home.correct("a", "bb")
    run_id, trainer = queue(home), Pretender()
    with caplog.at_level("INFO", "hone.learner"):
        cycle(home, lease(home), trainer).run()
    assert trainer.anchors == [None]
    said = "It is held to the base, since learner.anchor is parent and it starts from there."
    assert said in the_run(home, run_id).message and said in caplog.text


def test_a_version_that_is_not_there_or_of_another_base_is_told_before_a_run_is_queued(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_v1(home)
    held_to(home, "v7")
    with pytest.raises(
        NotFound, match=r"no adapter v7, which learner.anchor names.* set learner.anchor to base or par"
    ):
        learn_once(home.settings)
    held_to(home, "v1")
    monkeypatch.setattr("learner.parents.base_fingerprint", lambda model: "1" * 64)
    with pytest.raises(
        BadInput, match=r"v1, which learner.anchor names, was made for another base model than .*Or set"
    ):
        learn_once(home.settings)
    with home.store.read() as tx:
        assert len(runs.list_runs(tx)) == 1


def test_what_the_run_does_not_come_from_is_no_anchor(home: Home) -> None:
    """What it is held to is unlearned by going back to where it began."""
    learn_v1(home)
    held_to(home, "v1")
    with pytest.raises(
        Conflict, match=r"v1, which learner.anchor names, is nothing that the base comes from.* promote"
    ):
        learn_more(home, parent="base")


def test_an_anchor_that_knows_what_was_withdrawn_gives_way_to_what_it_comes_from(home: Home) -> None:
    learn_v1(home)
    go_live(home, "v1")
    home.correct("q", "rr", prompt=(1, 8))
    taught = home.correct("c", "dd", prompt=(1, 7))
    queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    go_live(home, "v2")
    held_to(home, "v2")
    assert Parents(home.settings, home.store).anchor() == "v2"
    withdraw(home, taught)
    assert Parents(home.settings, home.store).anchor() == "v1"
    trainer, run_id = learn_more(home)
    said = "It is held to v1: v2, which learner.anchor names, knows feedback that was withdrawn."
    assert said in the_run(home, run_id).message
    assert trainer.anchors == trainer.parents == [home.settings.adapters_folder / "v1"]


def test_a_word_that_names_no_anchor_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"learner.anchor: 'sft' is no anchor: base, parent, or a version such as v1"
    ):
        load_settings(tmp_path, {"learner": {"anchor": "sft"}}, {})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    model = build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)
    return Settings(home=model.parent, engine=EngineSettings(model=str(model)), learner=QUICK, ppo=FEW)


@pytest.fixture
def v1(settings: Settings, tmp_path: Path) -> Path:
    moved(Backbone.load(settings.model_path, QUICK)).save_adapter(tmp_path / "v1")
    return tmp_path / "v1"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 6)


def trained(
    settings: Settings, stage: Stage, parent: Path, anchor: Path | None, checkpoint: Path, phase: str | None = None
) -> list[dict[str, float]]:
    """What the stage tells of its steps, under the name of its own phase."""
    heard, taught = Heard(), lessons()
    taught = replace(taught, train=replace(taught.train, demonstrations=()))
    trainer = BackboneTrainer(settings, parent, anchor=anchor)
    trainer.train((stage,), taught, checkpoint, heard)
    return [dict(metrics) for name, step, _, metrics in heard.steps if name == (phase or stage) and step > 0]


@pytest.mark.usefixtures("quick")
def test_dpo_measures_from_the_anchor_and_keeps_its_scores_under_its_name(
    settings: Settings, v1: Path, tmp_path: Path
) -> None:
    """A policy that begins at its anchor has gained nothing: each pair costs log 2."""
    (first, *_), (from_base, *_) = (
        trained(settings, "dpo", v1, anchor, tmp_path / name) for name, anchor in (("own", v1), ("base", None))
    )
    assert first["dpo"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(from_base["dpo"] - math.log(2)) > 0.01
    kept = []
    for name in ("own", "base"):
        with safe_open(tmp_path / name / ANCHOR_SCORES, framework="pt") as file:
            kept.append(file.metadata()["anchor"])
    digest = hashlib.sha256((v1 / ADAPTER_WEIGHTS).read_bytes()).hexdigest()
    assert kept[0] == f"{kept[1]} {digest}"


@pytest.mark.usefixtures("quick")
def test_ppo_pays_for_what_moves_it_away_from_the_anchor(settings: Settings, v1: Path, tmp_path: Path) -> None:
    (first, *_), (from_base, *_) = (
        trained(settings, "ppo", v1, anchor, tmp_path / name, FEW.advantages)
        for name, anchor in (("own", v1), ("base", None))
    )
    assert first["kl"] == pytest.approx(0.0, abs=1e-4)
    assert from_base["kl"] > 0.01


@pytest.mark.usefixtures("quick")
def test_on_texts_the_anchor_is_the_base_or_the_parent(
    settings: Settings, v1: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [{"prompt": "what is one ?", "chosen": "yes .", "rejected": "no ."}]
    with pytest.raises(
        BadInput, match=r"There is no v1 here, .* Hand the adapter in as parent, and set learner.anchor"
    ):
        learn("dpo", settings.model_path, pairs, tmp_path / "out", {"learner": {"anchor": "v1"}}, v1)
    losses = []

    def hear(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        losses.extend([metrics["dpo"]] if step == 1 else [])

    for anchor in ("parent", "base"):
        how = {"learner": {"anchor": anchor, "dpo_on": "pairs"}}
        learn("dpo", settings.model_path, pairs, tmp_path / anchor, how, v1, hear)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4) and abs(losses[1] - losses[0]) > 0.01
    assert "no parent was given" not in caplog.text
    learn("dpo", settings.model_path, pairs, tmp_path / "none", {"learner": {"anchor": "parent", "dpo_on": "pairs"}})
    assert "no parent was given: the policy is held to the base" in caplog.text
