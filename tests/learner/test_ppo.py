"""The loop of reinforcement learning finds the optimum where it is known: π ∝ anchor · exp(reward / β)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.methods import ppo
from service.settings import LearnerSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import ids
from tests.learner.toy_rewards import PROMPTS, TOY_PPO, Liking, distance, next_word, optimum


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))


@pytest.mark.parametrize("advantages", ["gae", "reinforce", "rloo"])
def test_the_policy_comes_near_the_best_one(backbone: Backbone, advantages: str) -> None:
    best, before = optimum(backbone), next_word(backbone)
    assert distance(before, best) > 0.1  # there is something to learn
    judge = Liking(backbone)
    settings = TOY_PPO.model_copy(update={"advantages": advantages})
    result = ppo.train(backbone, judge, PROMPTS, settings, Heard())
    after = next_word(backbone)
    assert distance(after, best) < 0.1 * distance(before, best)
    assert result.replies == TOY_PPO.iterations * TOY_PPO.prompts * TOY_PPO.replies and result.skipped_steps == 0


def test_grpo_learns_what_is_rewarded(backbone: Backbone) -> None:
    before = next_word(backbone)
    ppo.train(
        backbone,
        Liking(backbone),
        PROMPTS,
        TOY_PPO.model_copy(update={"advantages": "grpo", "iterations": 15}),
        Heard(),
    )
    assert ((next_word(backbone).exp() - before.exp()) @ Liking(backbone).rewards > 0.1).all()


def test_a_dear_kl_keeps_the_policy_at_the_anchor(backbone: Backbone) -> None:
    before = next_word(backbone, "base")
    ppo.train(
        backbone,
        Liking(backbone),
        PROMPTS,
        TOY_PPO.model_copy(update={"iterations": 10, "kl_coefficient": 50.0}),
        Heard(),
    )
    assert distance(next_word(backbone), before) < 0.02


def test_an_adaptive_coefficient_rises_while_the_kl_is_above_its_target(backbone: Backbone) -> None:
    settings = TOY_PPO.model_copy(
        update={"target_kl": 1e-4, "kl_horizon": 500, "iterations": 12, "kl_coefficient": 0.05}
    )
    result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard())
    assert result.metrics["kl"] > 1e-4 and result.metrics["kl_coefficient"] > 0.05


def test_the_coefficient_adapts_however_early_the_passes_end(backbone: Backbone) -> None:
    settings = TOY_PPO.model_copy(
        update={"target_kl": 1e-6, "stop_kl": 1e-9, "iterations": 6, "advantages": "rloo", "kl_coefficient": 0.05}
    )
    assert ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard()).metrics["kl_coefficient"] > 0.05


def test_the_passes_of_an_iteration_end_when_the_policy_has_gone_far_enough(backbone: Backbone) -> None:
    settings = TOY_PPO.model_copy(update={"iterations": 6, "stop_kl": 1e-9, "epochs": 5, "advantages": "rloo"})
    result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard())
    assert result.steps < 6 * 5 * 2


def test_the_same_seed_gives_the_same_policy(folder: Path) -> None:
    found = []
    for seed in (3, 3, 4):
        backbone = Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))
        ppo.train(backbone, Liking(backbone), PROMPTS, TOY_PPO.model_copy(update={"iterations": 3}), Heard(), seed=seed)
        found.append(next_word(backbone))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_what_the_base_says_stays_likely_when_it_is_mixed_in(folder: Path) -> None:
    kept = [(PROMPTS[0], ids("one")), (PROMPTS[1], ids("one"))]
    lost = []
    for coefficient in (0.0, 2.0):
        backbone = Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))
        settings = TOY_PPO.model_copy(update={"iterations": 8, "pretraining_coefficient": coefficient})
        ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard(), pretraining=kept)
        lost.append(float(backbone.score(kept, "base").mean() - backbone.score(kept, "policy").mean()))
    assert lost[1] < lost[0] - 0.1


def test_prompts_that_leave_no_room_are_counted_and_none_is_no_training(backbone: Backbone) -> None:
    long = tuple([5] * 64)
    judge = Liking(backbone)
    result = ppo.train(backbone, judge, [long, ()], TOY_PPO, Heard())
    assert (result.steps, result.too_long, judge.asked) == (0, 2, 0)


def test_its_steps_are_reckoned_from_the_prompts_that_there_are(backbone: Backbone) -> None:
    settings = TOY_PPO.model_copy(update={"iterations": 3, "prompts": 64})
    result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, heard := Heard())
    assert heard.counted() == {"ppo": result.steps} and result.steps == 3 * 2 * 2  # iterations, epochs, minibatches
