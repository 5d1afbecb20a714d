"""What goes over people's feedback in passes goes on after a kill, and comes to what the unbroken training comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Demonstration, Label, Pair
from learner.curate import Curated
from learner.methods import kto, preference, rl_cai, sft, sl_cai
from learner.methods.anchor_scores import AnchorScores
from learner.methods.beside_kept import Learned
from learner.metrics import read_metrics
from learner.stage_checkpoint import StageCheckpoint
from learner.trainer import Keep, Stage
from service.settings import EngineSettings, LearnerSettings, Settings
from tests.learner.killed import Heard, Killed, assert_same, state_of
from tests.learner.lessons import OTHERS, RIGHT, WRONG, lessons
from tests.learner.likings import LIKINGS, comparisons
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import build_tiny_model, ids

LEARNER = LearnerSettings(
    rank=4, alpha=8.0, threads=1, batch_size=4, sft_epochs=2, dpo_epochs=2, sft_learning_rate=1e-2,
    dpo_learning_rate=1e-2, kto_learning_rate=1e-2, min_fluency=-9.0, max_kl_per_token=9.0,
)  # fmt: skip
PROMPTS = [ids(f"<bos> {a} {b} ?") for a in ("one", "two", "three", "four") for b in ("blue", "red", "green", "paris")]
YES, NO = ids("yes .", end=True), ids("no .", end=True)
TAUGHT = [Demonstration(prompt, NO if place % 2 else RIGHT) for place, prompt in enumerate(PROMPTS[:6])]
KEPT = [(prompt, YES) for prompt in PROMPTS[8:]]

Train = Callable[[Backbone, Heard, StageCheckpoint, AnchorScores], Any]


def by_sft(backbone: Backbone, heard: Heard, checkpoint: StageCheckpoint, anchor: AnchorScores) -> sft.SftResult:
    return sft.train(backbone, TAUGHT, PROMPTS[6:], LEARNER, heard, checkpoint=checkpoint)


def by_dpo(
    backbone: Backbone, heard: Heard, checkpoint: StageCheckpoint, anchor: AnchorScores
) -> preference.PreferenceResult:
    """Four iterations of two passes of two steps, and in the last of two passes of three."""
    pairs = comparisons(LIKINGS["asks"], 20, seed=2)
    return preference.train(backbone, pairs, PROMPTS[:12], LEARNER, heard, anchor, checkpoint)


def by_kto(backbone: Backbone, heard: Heard, checkpoint: StageCheckpoint, anchor: AnchorScores) -> kto.KtoResult:
    labels = [Label(prompt, YES if place % 3 else NO, place % 3 > 0) for place, prompt in enumerate(PROMPTS)]
    return kto.train(backbone, labels, PROMPTS, LEARNER, heard, anchor, checkpoint)


def by_sl_cai(backbone: Backbone, heard: Heard, checkpoint: StageCheckpoint, anchor: AnchorScores) -> Learned:
    return sl_cai.train(backbone, TAUGHT, KEPT, PROMPTS, LEARNER, heard, checkpoint=checkpoint)


def by_rl_cai(backbone: Backbone, heard: Heard, checkpoint: StageCheckpoint, anchor: AnchorScores) -> Learned:
    pairs = [Pair(prompt, NO, YES, certainty=0.9) for prompt in PROMPTS[:6]]
    return rl_cai.train(backbone, pairs, KEPT, PROMPTS, LEARNER, heard, anchor, checkpoint)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 8)
    few = {"PROMPTS": 16, "CHECKED_PROMPTS": 8, "MOST_ITERATIONS": 3, "WANTED_WON": 1.1}
    for name, value in few.items():
        monkeypatch.setattr(preference, name, value)
    for name in ("sft.FEWEST_STEPS", "sft.SETTLING_STEPS", "kto.FEWEST_STEPS"):
        monkeypatch.setattr(f"learner.methods.{name}", 12)


@pytest.mark.parametrize("is_child", [False, True], ids=["of the base", "of a parent"])
@pytest.mark.parametrize(
    ("train", "phase", "kills"),
    [
        (by_sft, "sft", (2, 4, 14)),  # while it learns, in mid-pass and after one; while it settles
        (by_dpo, "dpo", (6, 8, 13)),  # in an iteration, after one, and in the last
        (by_kto, "kto", (3, 8)),
        (by_sl_cai, "sl-cai", (5, 6)),
        (by_rl_cai, "rl-cai", (1, 4)),
    ],
    ids=["sft", "dpo", "kto", "sl-cai", "rl-cai"],
)
def test_a_killed_training_goes_on_and_comes_to_the_same_bit_for_bit(
    folder: Path, tmp_path: Path, train: Train, phase: str, kills: tuple[int, ...], is_child: bool
) -> None:
    parent = tmp_path / "parent" if is_child else None
    if parent is not None:
        moved(Backbone.load(folder, LEARNER)).save_adapter(parent)

    def learn(heard: Heard, checkpoint: Path | None = None) -> tuple[dict[str, Tensor], Any]:
        """In a process of its own, so to speak."""
        backbone = Backbone.load(folder, LEARNER, parent)
        anchor = AnchorScores(backbone, checkpoint and checkpoint.with_suffix(".anchor"))
        result = train(backbone, heard, StageCheckpoint(checkpoint, "this"), anchor)
        return state_of(backbone), result

    whole = Heard(tmp_path / "straight")
    straight, expected = learn(whole)
    for dies_at in kills:
        with pytest.raises(Killed):
            learn(Heard(tmp_path / "broken", phase, dies_at), tmp_path / "it")
    rest = Heard(tmp_path / "broken")
    state, result = learn(rest, tmp_path / "it")
    assert_same(state, straight)
    assert result == expected
    assert len(rest.phases) <= len(whole.phases) - kills[-1] + 1  # all but the step that it died after
    lines = read_metrics(tmp_path / "broken")
    assert lines == read_metrics(tmp_path / "straight")
    assert [line["step"] for line in lines] == list(range(1, result.steps + 1))


def test_what_learning_a_preference_found_out_before_the_policy_moved_is_not_asked_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(heard: Heard) -> None:
        backbone = Backbone.load(folder, LEARNER)
        by_dpo(backbone, heard, StageCheckpoint(tmp_path / "it"), AnchorScores(backbone))

    with pytest.raises(Killed):
        learn(Heard(tmp_path / "metrics", "dpo", 1))
    for name in ("answers", "neighbours_apart"):
        monkeypatch.setattr(preference, name, lambda *_: pytest.fail("It is known."))
    learn(Heard(tmp_path / "metrics"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    model = build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)
    learner = LEARNER.model_copy(update={"checkpoint_minutes": 0.0})
    return Settings(home=model.parent, engine=EngineSettings(model=str(model)), learner=learner)


def taught() -> Curated:
    """Something for each stage."""
    revised = tuple(Demonstration(prompt, NO) for prompt in OTHERS)
    ai_pairs = tuple(Pair(prompt, RIGHT, WRONG, certainty=0.9) for prompt in OTHERS)
    train = replace(lessons().train, revised=revised, kept=tuple(KEPT), ai_pairs=ai_pairs)
    return replace(lessons(), train=train)


def run(
    settings: Settings,
    stages: tuple[Stage, ...],
    checkpoint: Path,
    heard: Heard,
    lessons: Curated | None = None,
    keep: Keep = "policy",
) -> dict[str, Tensor]:
    trainer = BackboneTrainer(settings, None, keep)
    trainer.train(stages, lessons or taught(), checkpoint, heard)
    return state_of(trainer._backbone)


@pytest.mark.parametrize(
    ("stages", "phase", "file"),
    [
        (("sft",), "sft", "0-sft"),
        (("dpo",), "dpo", "0-dpo"),
        (("kto",), "kto", "0-kto"),
        (("sl-cai",), "sl-cai", "0-sl-cai"),
        (("rl-cai",), "rl-cai", "0-rl-cai"),
        (("sft", "kto"), "sft again", "2-sft-again"),
    ],
)
def test_a_run_that_is_killed_inside_any_stage_goes_on_there(
    settings: Settings, tmp_path: Path, stages: tuple[Stage, ...], phase: str, file: str
) -> None:
    straight = run(settings, stages, tmp_path / "straight", Heard(tmp_path / "straight.jsonl"))
    with pytest.raises(Killed):
        run(settings, stages, tmp_path / "broken", Heard(tmp_path / "broken.jsonl", phase, 4))
    unfinished = tmp_path / "broken" / f"{file}.unfinished"
    assert unfinished.exists()
    heard = Heard(tmp_path / "broken.jsonl")
    assert_same(run(settings, stages, tmp_path / "broken", heard), straight)
    lines = read_metrics(tmp_path / "broken.jsonl")
    assert lines == read_metrics(tmp_path / "straight.jsonl")
    steps = sum(line["phase"] == phase for line in lines)
    assert set(heard.phases) == {phase} and len(heard.phases) <= steps - 4 + 2  # step 4 again, and that it begins
    assert not unfinished.exists() and unfinished.with_suffix(".safetensors").exists()


@pytest.mark.parametrize("changed", ["learner", "mixture", "snapshot", "kept", "base", "nothing", "when"])
def test_a_stage_begins_again_where_its_checkpoint_is_of_something_else(
    settings: Settings, tmp_path: Path, changed: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, given, keep, learner = tmp_path / "checkpoint", taught(), "policy", settings.learner
    with pytest.raises(Killed):
        run(settings, ("rl-cai",), checkpoint, Heard(tmp_path / "metrics", "rl-cai", 3))
    match changed:
        case "learner":
            learner = learner.model_copy(update={"dpo_beta": 0.3})
        case "when":
            learner = learner.model_copy(update={"max_attempts": 9, "checkpoint_minutes": 1.0})
        case "mixture":
            constitution = settings.constitution.model_copy(update={"human_share": 0.3})
            settings = settings.model_copy(update={"constitution": constitution})
        case "snapshot":
            given = replace(given, train=replace(given.train, ai_pairs=given.train.ai_pairs[1:]))
        case "kept":
            keep = "base"
        case "base":
            monkeypatch.setattr("learner.backbone_trainer.fingerprint_if_known", lambda model: "another")
    heard = Heard(tmp_path / "metrics")
    settings = settings.model_copy(update={"learner": learner})
    run(settings, ("rl-cai",), checkpoint, heard, given, keep)  # type: ignore[arg-type]  # one of the two
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics")]
    goes_on = changed in ("nothing", "when")
    assert steps == list(range(1, len(steps) + 1))
    assert (len(heard.phases) < len(steps)) == goes_on
    assert ("is of no use, so this stage begins again" in caplog.text) != goes_on
