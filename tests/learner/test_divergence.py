"""A training that diverges ends as a failure, however short it is, and what is half wrong with one is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.backbone import Backbone
from learner.batch import Label
from learner.evaluate.agreement import words
from learner.loading import on_a_sound_base
from learner.methods import kto, pairs_dpo, ppo, raft, reward, sft
from learner.methods.answers import Answer
from learner.methods.optimizer import DIVERGED, Stepper
from learner.methods.strength import hold_back, hold_inside_limits, limits_in_words
from learner.on_texts import learn, learn_reward
from learner.sampling import sample
from learner.trained import Trained
from service.errors import TrainingFailed
from service.settings import LearnerSettings, PpoSettings, RaftSettings
from tests.learner.colours import comparisons
from tests.learner.progress import Heard
from tests.learner.short_trainings import KEPT, PROMPTS, pairs, taught
from tests.learner.stepping import take_step
from tests.learner.tiny_backbone import SETTINGS, moved
from tests.learner.tiny_model import build_tiny_model
from tests.learner.toy_rewards import Counting

TOO_MUCH = SETTINGS.model_copy(
    update={"batch_size": 4, "dpo_epochs": 1, "kto_epochs": 1, "sft_epochs": 1, "reward_epochs": 1}
    | {f"{name}_learning_rate": 1e20 for name in ("dpo", "kto", "sft", "reward")}
)
FEW = {"iterations": 2, "prompts": 4, "replies": 8, "minibatch": 32, "max_new_tokens": 24, "learning_rate": 1e20}


def step(stepper: Stepper, weight: torch.nn.Parameter, is_finite: bool) -> None:
    take_step(stepper, weight.sum() * (1.0 if is_finite else float("nan")))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((True, True, False), "1 of 3 steps had none, the last one among them"),
        ((False, False, True), "2 of 3 steps had none[.]"),
        ((True, False, True), ""),
        ((), ""),
    ],
)
def test_a_training_whose_last_step_or_most_were_skipped_has_failed(steps: tuple[bool, ...], said: str) -> None:
    stepper = Stepper([weight := torch.nn.Parameter(torch.ones(2))], 0.1)
    for is_finite in steps:
        step(stepper, weight, is_finite)
    with pytest.raises(TrainingFailed, match=said) if said else nullcontext():
        stepper.end()


def by_dpo(backbone: Backbone) -> None:
    pairs_dpo.train(backbone, pairs(8), PROMPTS, TOO_MUCH, Heard())


def by_kto(backbone: Backbone) -> None:
    labels = [Label(*one, place % 2 == 0) for place, one in enumerate(KEPT[:8])]
    kto.train(backbone, labels, PROMPTS, TOO_MUCH, Heard())


def by_sft(backbone: Backbone) -> None:
    sft.train(backbone, taught(8), PROMPTS, TOO_MUCH, Heard())


def by_reward(backbone: Backbone) -> None:
    reward.fit(backbone, comparisons(8), [], TOO_MUCH, Heard())


def by_ppo(backbone: Backbone) -> None:
    ppo.train(backbone, Counting(), PROMPTS, PpoSettings(**FEW | {"advantages": "rloo", "epochs": 1}), Heard())


def by_values(backbone: Backbone) -> None:
    how = PpoSettings(**FEW | {"learning_rate": 1e-4, "value_learning_rate": 1e20, "value_warmup": 0, "epochs": 1})
    ppo.train(backbone, Counting(), PROMPTS, how, Heard())


def by_raft(backbone: Backbone) -> None:
    raft.train(backbone, Counting(), PROMPTS, RaftSettings(**FEW), Heard())


@pytest.mark.parametrize("train", [by_dpo, by_kto, by_sft, by_reward, by_ppo, by_values, by_raft])
def test_a_short_training_that_diverges_fails(folder: Path, train: Callable[[Backbone], None]) -> None:
    with pytest.raises(TrainingFailed, match="finite"):
        train(Backbone.load(folder, TOO_MUCH))


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_a_base_that_is_not_finite_is_blamed_instead_of_the_learning_rate(method: str, tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "base", context=128)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    rows = [{"prompt": f"what is {word} ?", "chosen": "yes .", "rejected": "no ."} for word in ("one", "red")]
    rows += [{"prompt": "what is two ?", "reply": "two ."}]
    said = r"base.model\.safetensors has weights .* 1 of 2048 in model\.layers\.0\.mlp\.up_proj\.weight\. No adapter"
    with pytest.raises(TrainingFailed, match=said):
        if method == "reward":
            learn_reward(model, rows, tmp_path / "out")
        else:
            learn(method, model, rows, tmp_path / "out")


def test_with_a_sound_base_a_failure_keeps_its_reason(folder: Path, tmp_path: Path) -> None:
    for model in (folder, tmp_path / "nowhere"):
        failure = TrainingFailed("The training diverged.", DIVERGED)
        with pytest.raises(TrainingFailed) as caught, on_a_sound_base(model):
            raise failure
        assert caught.value is failure


def test_what_is_measured_at_full_strength_must_be_finite(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    with pytest.raises(TrainingFailed, match="diverged: kl per token had no finite value"):
        hold_back(backbone, lambda: {"kl_per_token": float("nan"), "fluency": 0.0}, lambda _: True)


def test_limits_that_an_update_is_not_held_inside_of_are_told(folder: Path) -> None:
    loose = LearnerSettings(rank=4, alpha=8.0, min_fluency=-50.0, max_kl_per_token=50.0)
    backbone = moved(Backbone.load(folder, loose), size=2.0)
    replies = sample(backbone, PROMPTS, role="base", temperature=0.0)
    texts = backbone.decode([reply.token_ids for (reply,) in replies])
    known = {prompt: Answer(words(text), firm=True) for prompt, text in zip(PROMPTS, texts, strict=True)}
    scale, measured = hold_inside_limits(backbone, None, PROMPTS[:6], loose, known)
    assert scale == 0.5 and measured["answers_lost"] > measured["answers_lost_limit"] == 0.04
    lost = f"it lost {measured['answers_lost']:.0%} of the base's answers (limit 4%)"
    said = limits_in_words(measured | {"scale": scale})
    assert lost in said and said.endswith("and its update was not made smaller than half")
    assert limits_in_words(measured | {"scale": 0.0}).endswith("and nothing of its update is left")
    kept = {name: value for name, value in measured.items() if not name.endswith("_limit")}
    assert limits_in_words(kept) == ""


def test_what_is_to_be_said_of_a_training_outlives_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    trained = Trained.read(tmp_path)
    assert trained.remarks == () and trained.to_json() == {"skipped_steps": 0, "remarks": [], "stages": {}}
    trained.add("sft", sft.SftResult(9, 1, 1, too_long=2, skipped_steps=0, metrics={"worst_correction": -0.1}))
    limits = {"answers_lost": 0.18, "answers_lost_limit": 0.04, "scale": 0.5}
    trained.add("kto", kto.KtoResult(9, 1, 1, 0, skipped_steps=2, metrics=limits))
    trained.write(tmp_path)
    again = Trained.read(tmp_path)
    assert again == trained and again.to_json()["skipped_steps"] == 2
    assert again.to_json()["stages"] == {"sft": {"steps": 9, "worst_correction": -0.1}, "kto": {"steps": 9, **limits}}
    assert again.remarks == (
        "sft left out 2 examples longer than the model's context.",
        "kto skipped 2 steps without a finite loss.",
        "Of kto: it lost 18% of the base's answers (limit 4%), and its update was not made smaller than half.",
    )
    assert all(remark in caplog.text for remark in again.remarks)
    with pytest.raises(TrainingFailed, match="odds gained had no finite value"):
        trained.add("dpo", kto.KtoResult(9, 1, 1, 0, 0, {"odds_gained": float("nan")}))
