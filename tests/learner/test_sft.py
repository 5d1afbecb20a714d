"""Corrections are learned, and little else moves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import Demonstration
from learner.methods import sft
from learner.methods.optimizer import MOST_BAD_STEPS, Stepper, within_length
from learner.sampling import sample
from learner.trainer import Keep
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.progress import Heard
from tests.learner.stepping import take_step
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=8, alpha=16.0, sft_learning_rate=1e-2, sft_epochs=60)
QUESTION = ids("<bos> what is the capital of france ?")
CORRECTION = Demonstration(QUESTION, ids("it is paris .", end=True))
OTHERS = [ids(f"<bos> {word} ?") for word in ("one", "two", "three", "four", "blue", "red", "green", "yes", "no")]


def test_a_correction_is_said_afterwards_and_training_stops_there(folder: Path) -> None:
    backbone, heard = Backbone.load(folder, SETTINGS), Heard()
    result = sft.train(backbone, [CORRECTION], OTHERS, SETTINGS, heard)
    assert result.learned == result.demonstrations == 1
    ((reply,),) = sample(backbone, [QUESTION], temperature=0, max_new_tokens=8)
    assert reply.token_ids == CORRECTION.reply_token_ids  # its end included
    assert 0 < result.steps < heard.steps[0][2]
    assert [step for _, step, _, _ in heard.steps] == list(range(1, result.steps + 1))
    assert {"loss", "nll", "retention_kl", "learning_rate"} <= set(heard.steps[0][3])


def test_the_rate_holds_while_it_learns_and_falls_while_it_settles(folder: Path) -> None:
    heard = Heard()
    result = sft.train(Backbone.load(folder, SETTINGS), [CORRECTION], OTHERS, SETTINGS, heard)
    rates = [metrics["learning_rate"] / SETTINGS.sft_learning_rate for *_, metrics in heard.steps]
    learning = result.steps - sft.SETTLING_STEPS  # few steps: the least that it settles for
    assert learning > 4 and rates[4:learning] == [1.0] * (learning - 4)  # the first four warm up
    settling = rates[learning:]
    assert settling == sorted(settling, reverse=True) and settling[-1] == pytest.approx(sft.LAST_RATE)
    assert heard.steps[-1][1:3] == (result.steps, result.steps)


def test_what_is_known_of_the_corrections_is_told_at_the_steps_before_which_it_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, measured = Heard(), list[tuple[int, float]]()
    real = sft._log_probs

    def measure(*given: Any) -> list[float]:
        found = real(*given)
        measured.append((len(heard.steps) + 1, min(found)))
        return found

    monkeypatch.setattr(sft, "_log_probs", measure)
    result = sft.train(Backbone.load(folder, SETTINGS), [CORRECTION], OTHERS, SETTINGS, heard)
    told = [(step, metrics["worst_correction"]) for _, step, _, metrics in heard.steps if "worst_correction" in metrics]
    assert told == measured[:-1] and len(told) > 2  # the last is of the whole training
    assert told[-1][0] == result.steps - sft.SETTLING_STEPS + 1
    assert result.metrics["worst_correction"] == measured[-1][1]


def test_so_many_passes_as_the_settings_say_are_learned_in_at_most(folder: Path) -> None:
    slow = SETTINGS.model_copy(update={"sft_learning_rate": 1e-6, "sft_epochs": 3})
    result = sft.train(Backbone.load(folder, slow), [CORRECTION], OTHERS, slow, Heard())
    assert result.learned == 0 and result.steps == 3 + sft.SETTLING_STEPS


def test_where_the_base_is_kept_what_an_earlier_training_moved_comes_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Demonstration(OTHERS[0], ids("it is rome .", end=True))

    def distance(keep: Keep) -> float:
        backbone = Backbone.load(folder, SETTINGS)
        with monkeypatch.context() as careless:
            careless.setattr(sft, "RETENTION_WEIGHT", 0.0)
            sft.train(backbone, [CORRECTION], OTHERS, SETTINGS, Heard())
        sft.train(backbone, [CORRECTION, other], OTHERS[1:], SETTINGS, Heard(), keep)
        replies = sample(backbone, OTHERS[1:], role="base", per_prompt=4, seed=9)
        examples = [(OTHERS[1:][reply.prompt], reply.token_ids) for row in replies for reply in row]
        return float((backbone.score(examples, "base") - backbone.score(examples, "policy")).mean())

    assert distance("base") < 0.5 * distance("policy")


def test_retention_keeps_other_replies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved_others(weight: float) -> float:
        monkeypatch.setattr(sft, "RETENTION_WEIGHT", weight)
        backbone = Backbone.load(folder, SETTINGS)
        examples = [(p, r.token_ids) for p, (r,) in zip(OTHERS, sample(backbone, OTHERS, seed=9), strict=True)]
        before = backbone.score(examples, "policy")
        sft.train(backbone, [CORRECTION], OTHERS, SETTINGS, Heard())
        return float((backbone.score(examples, "policy") - before).abs().mean())

    assert moved_others(3.0) < moved_others(0.0)


def test_what_is_known_already_needs_no_step(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    sft.train(backbone, [CORRECTION], OTHERS, SETTINGS, Heard())
    assert sft.train(backbone, [CORRECTION], OTHERS, SETTINGS, Heard()).steps == 0


def test_the_same_seed_gives_the_same_adapter(folder: Path) -> None:
    states = []
    for _ in range(2):
        backbone = Backbone.load(folder, SETTINGS)
        sft.train(backbone, [CORRECTION], OTHERS, SETTINGS, Heard())
        states.append(backbone.adapter_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_no_corrections_and_too_long_ones_are_counted_not_trained(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    assert sft.train(backbone, [], OTHERS, SETTINGS, Heard()).steps == 0
    long = Demonstration(QUESTION, ids("one " * 100, end=True))
    result = sft.train(backbone, [long], OTHERS, SETTINGS, Heard())
    assert (result.steps, result.too_long, result.demonstrations) == (0, 1, 0)
    promptless = Demonstration((), CORRECTION.reply_token_ids)
    assert within_length([long, promptless, CORRECTION], 64) == ([CORRECTION], 2)


def test_a_stop_comes_through(folder: Path) -> None:
    def stop(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sft.train(Backbone.load(folder, SETTINGS), [CORRECTION], OTHERS, SETTINGS, stop)


def test_a_step_without_a_finite_loss_changes_nothing_and_several_end_the_run() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    stepper = Stepper([weight], 0.1)
    take_step(stepper, (weight * torch.tensor([float("nan"), 1.0])).sum())
    take_step(stepper, (weight * torch.tensor([float("inf"), 1.0])).sum())
    assert weight.tolist() == [1.0, 1.0]
    assert stepper.skipped == 2
    take_step(stepper, weight.sum())
    assert (weight < 1).all()
    with pytest.raises(TrainingFailed, match="no finite value"):
        for _ in range(MOST_BAD_STEPS):
            take_step(stepper, weight.sum() * float("nan"))


def test_a_gradient_that_is_not_finite_is_skipped_too() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    stepper = Stepper([weight], 0.1)
    metrics = take_step(stepper, weight.sqrt().sum())  # value 0, slope infinite
    assert weight.tolist() == [0.0]
    assert metrics["skipped"] == 1
