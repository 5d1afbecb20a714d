"""DPO on people's own pairs raises the odds of what they preferred, as far as the settings ask, inside the limits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Pair
from learner.methods import pairs_dpo, preference
from learner.methods.anchor_scores import AnchorScores
from learner.stage_checkpoint import StageCheckpoint
from service.settings import EngineSettings, LearnerSettings, Settings
from tests.learner import progress
from tests.learner.killed import Heard, Killed, assert_same, state_of
from tests.learner.lessons import lessons
from tests.learner.likings import LIKINGS, comparisons
from tests.learner.tiny_model import EOS, build_tiny_model, ids

SETTINGS = LearnerSettings(
    rank=4, alpha=8.0, threads=1, batch_size=8, dpo_on="pairs", dpo_epochs=3, dpo_learning_rate=1e-2, min_fluency=-50.0,
    max_kl_per_token=50.0,
)  # fmt: skip
PROMPTS = [ids(f"<bos> {a} {b} ?") for a in ("one", "two", "three") for b in ("blue", "red", "green")]
YES, NO = ids("yes .", end=True), ids("no .", end=True)
PAIRS = [pair for pair in comparisons(LIKINGS["short"], 32, seed=2) if not pair.tie]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 8)


def gains(backbone: Backbone, pairs: list[Pair]) -> torch.Tensor:
    """How much each better reply gained on the worse one over the base, in nats."""
    gained = backbone.score(preference.both(pairs), "policy") - backbone.score(preference.both(pairs), "base")
    better, worse = gained.chunk(2)
    return better - worse


def learned(folder: Path, pairs: list[Pair], **others: object) -> tuple[Backbone, preference.PreferenceResult]:
    backbone = Backbone.load(folder, SETTINGS)
    settings = SETTINGS.model_copy(update=others)
    return backbone, pairs_dpo.train(backbone, pairs, PROMPTS, settings, progress.Heard())


def test_the_odds_of_what_people_prefer_rise_and_the_same_seed_gives_the_same_adapter(folder: Path) -> None:
    heard, backbone = progress.Heard(), Backbone.load(folder, SETTINGS)
    result = pairs_dpo.train(backbone, PAIRS, PROMPTS, SETTINGS, heard)
    assert result.steps == 3 * math.ceil(len(PAIRS) / 8)
    assert [step for _, step, _, _ in heard.steps] == list(range(result.steps + 1))
    found = gains(backbone, PAIRS)
    assert found.mean() > 1 and (found > 0).float().mean() > 0.8
    assert result.metrics["odds_gained"] == pytest.approx(found.mean().item(), abs=1e-4)
    assert heard.steps[-1][3]["reward_margin"] > heard.steps[1][3]["reward_margin"]
    assert heard.steps[1][3]["dpo"] == pytest.approx(math.log(2), abs=1e-4)  # before the first step z is 0
    again, _ = learned(folder, PAIRS)
    assert_same(again.adapter_state(), backbone.adapter_state())


def test_margins_ties_and_label_smoothing_say_how_far_the_odds_rise(folder: Path) -> None:
    """Conservative DPO comes to rest at the odds of (1 - ε) to ε, a tie at even ones; both by 1 / β."""
    pairs = [Pair(prompt, YES, NO) for prompt in PROMPTS[:4]]
    usual = {"dpo_epochs": 40, "dpo_beta": 1.0, "dpo_learning_rate": 1e-2}
    backbone, _ = learned(folder, pairs, **usual, dpo_label_smoothing=0.2)
    torch.testing.assert_close(gains(backbone, pairs), torch.full((4,), math.log(4)), atol=0.3, rtol=0)
    backbone, _ = learned(folder, [replace(pair, margin=3.0) for pair in pairs], **usual, dpo_label_smoothing=0.2)
    torch.testing.assert_close(gains(backbone, pairs), torch.full((4,), math.log(12)), atol=0.3, rtol=0)
    backbone, _ = learned(folder, [*pairs[:1], *(replace(pair, tie=True) for pair in pairs[1:])], **usual)
    found = gains(backbone, pairs)
    assert found[0] > found[1:].abs().max() and found[1:].abs().max() < 0.5
    backbone, _ = learned(folder, pairs, **usual, dpo_label_smoothing=0.2, dpo_robust=True)
    assert gains(backbone, pairs).min() > 2  # it does not rest there


def test_it_is_held_back_until_replies_are_inside_the_limits(folder: Path) -> None:
    _, free = learned(folder, PAIRS)
    _, held = learned(folder, PAIRS, max_kl_per_token=free.metrics["kl_per_token"] / 2)
    assert free.metrics["scale"] == 1 > held.metrics["scale"]
    assert held.metrics["odds_gained"] < free.metrics["odds_gained"]


def test_prompts_too_long_to_measure_its_strength_on_are_counted(folder: Path) -> None:
    prompts = [*PROMPTS, ids("<bos> " + "one " * 40), ids("<bos> " + "two " * 40)]
    few = SETTINGS.model_copy(update={"dpo_epochs": 1})
    result = pairs_dpo.train(Backbone.load(folder, few), PAIRS[:8], prompts, few, progress.Heard())
    assert result.metrics["prompts_too_long"] == 2
    result = pairs_dpo.train(Backbone.load(folder, few), PAIRS[:8], PROMPTS, few, progress.Heard())
    assert result.metrics["prompts_too_long"] == 0


def test_ties_alone_change_nothing_and_long_pairs_are_counted(folder: Path) -> None:
    backbone, result = learned(folder, [replace(PAIRS[0], tie=True), Pair(PROMPTS[0], ids("one " * 80), (5, EOS))])
    assert (result.steps, result.pairs, result.too_long) == (0, 1, 1)
    assert not gains(backbone, PAIRS[:2]).any()
    assert pairs_dpo.train(backbone, [], [], SETTINGS, progress.Heard()).steps == 0


def test_a_killed_training_goes_on_and_comes_to_the_same_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    def learn(heard: Heard) -> tuple[Backbone, preference.PreferenceResult]:
        backbone = Backbone.load(folder, SETTINGS)
        checkpoint, anchor = StageCheckpoint(tmp_path / "it", "this"), AnchorScores(backbone, tmp_path / "anchor")
        return backbone, pairs_dpo.train(backbone, PAIRS, PROMPTS, SETTINGS, heard, anchor, checkpoint)

    straight, expected = learned(folder, PAIRS)
    for dies_at in (2, 9):
        with pytest.raises(Killed):
            learn(Heard(tmp_path / "metrics", "dpo", dies_at))
    backbone, result = learn(rest := Heard(tmp_path / "metrics"))
    assert result == expected
    assert_same(state_of(backbone), state_of(straight))
    assert len(rest.phases) <= expected.steps - 7  # but for the ninth, no step is taken again


def test_the_setting_says_which_dpo_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference, "train", lambda *_: pytest.fail("It samples."))
    model = build_tiny_model(tmp_path / "tiny", context=512)
    settings = Settings(home=tmp_path, engine=EngineSettings(model=str(model)), learner=SETTINGS)
    trainer, taught, heard = BackboneTrainer(settings, None), lessons(), progress.Heard()
    trainer.train(("dpo",), taught, tmp_path / "checkpoint", heard)
    assert [(phase, step) for phase, step, _, _ in heard.steps if step == 3] == [("dpo", 3)]
    trainer.save(tmp_path / "adapter", taught)
