"""The loop of reinforcement learning finds the optimum where it is known: π ∝ anchor · exp(reward / β)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import TokenIds, collate
from learner.methods import ppo
from service.settings import LearnerSettings, PpoSettings
from tests.learner.test_sft import Heard
from tests.learner.tiny_model import PAD, WORDS, ids

BETA = 0.5
LIKED = (1, 2, 3, 4)  # the words that the base says most after the first
PROMPTS = [ids("<bos> what is it ?"), ids("<bos> red you ?"), ids("<bos> one two"), ids("<bos> long answer , friend")]
TOY = PpoSettings(
    iterations=40, prompts=4, replies=24, epochs=2, minibatch=48, learning_rate=1e-2, value_learning_rate=1e-2,
    kl_coefficient=BETA, normalise_rewards=False, clip_rewards=None, missing_eos_penalty=0.0, stop_kl=10.0,
    pretraining_coefficient=0.0, max_new_tokens=1, whiten_advantages=False, lam=1.0,
)  # fmt: skip


class Liking:
    """The reward of a one-word reply: 1 for the words of LIKED. It counts how often it was asked."""

    def __init__(self, backbone: Backbone) -> None:
        order = next_word(backbone, "base").exp().mean(0).argsort(descending=True)
        self.asked = 0
        self.rewards = torch.zeros(len(WORDS)).index_fill(0, order[list(LIKED)], 1.0)

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        self.asked += len(examples)
        return self.rewards[[reply[0] for _, reply in examples]]


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))


def next_word(backbone: Backbone, role: str = "policy") -> Tensor:
    """(prompts, V) log-probabilities."""
    batch = collate([(prompt, (0,)) for prompt in PROMPTS], PAD)
    with torch.no_grad():
        return torch.log_softmax(backbone.logits(batch, role)[0], -1)  # type: ignore[arg-type]


def optimum(backbone: Backbone) -> Tensor:
    return torch.log_softmax(next_word(backbone, "base") + Liking(backbone).rewards / BETA, -1)


def distance(policy: Tensor, best: Tensor) -> float:
    """Mean KL(policy ‖ best), in nats."""
    return float((policy.exp() * (policy - best)).sum(-1).mean())


@pytest.mark.parametrize("advantages", ["gae", "reinforce", "rloo"])
def test_the_policy_comes_near_the_best_one(backbone: Backbone, advantages: str) -> None:
    best, before = optimum(backbone), next_word(backbone)
    assert distance(before, best) > 0.1  # there is something to learn
    judge = Liking(backbone)
    settings = TOY.model_copy(update={"advantages": advantages})
    result = ppo.train(backbone, judge, PROMPTS, settings, Heard())
    after = next_word(backbone)
    assert distance(after, best) < 0.1 * distance(before, best)
    assert result.replies == TOY.iterations * TOY.prompts * TOY.replies and result.skipped_steps == 0


def test_grpo_learns_what_is_rewarded(backbone: Backbone) -> None:
    before = next_word(backbone)
    ppo.train(
        backbone, Liking(backbone), PROMPTS, TOY.model_copy(update={"advantages": "grpo", "iterations": 15}), Heard()
    )
    assert ((next_word(backbone).exp() - before.exp()) @ Liking(backbone).rewards > 0.1).all()


def test_a_dear_kl_keeps_the_policy_at_the_anchor(backbone: Backbone) -> None:
    before = next_word(backbone, "base")
    ppo.train(
        backbone, Liking(backbone), PROMPTS, TOY.model_copy(update={"iterations": 10, "kl_coefficient": 50.0}), Heard()
    )
    assert distance(next_word(backbone), before) < 0.02


def test_an_adaptive_coefficient_rises_while_the_kl_is_above_its_target(backbone: Backbone) -> None:
    settings = TOY.model_copy(update={"target_kl": 1e-4, "kl_horizon": 500, "iterations": 12, "kl_coefficient": 0.05})
    result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard())
    assert result.metrics["kl"] > 1e-4 and result.metrics["kl_coefficient"] > 0.05


def test_the_coefficient_adapts_however_early_the_passes_end(backbone: Backbone) -> None:
    settings = TOY.model_copy(
        update={"target_kl": 1e-6, "stop_kl": 1e-9, "iterations": 6, "advantages": "rloo", "kl_coefficient": 0.05}
    )
    assert ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard()).metrics["kl_coefficient"] > 0.05


def test_the_passes_of_an_iteration_end_when_the_policy_has_gone_far_enough(backbone: Backbone) -> None:
    settings = TOY.model_copy(update={"iterations": 6, "stop_kl": 1e-9, "epochs": 5, "advantages": "rloo"})
    result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard())
    assert result.steps < 6 * 5 * 2


def test_the_same_seed_gives_the_same_policy(folder: Path) -> None:
    found = []
    for seed in (3, 3, 4):
        backbone = Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))
        ppo.train(backbone, Liking(backbone), PROMPTS, TOY.model_copy(update={"iterations": 3}), Heard(), seed=seed)
        found.append(next_word(backbone))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_what_the_base_says_stays_likely_when_it_is_mixed_in(folder: Path) -> None:
    kept = [(PROMPTS[0], ids("one")), (PROMPTS[1], ids("one"))]
    lost = []
    for coefficient in (0.0, 2.0):
        backbone = Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))
        settings = TOY.model_copy(update={"iterations": 8, "pretraining_coefficient": coefficient})
        ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard(), pretraining=kept)
        lost.append(float(backbone.score(kept, "base").mean() - backbone.score(kept, "policy").mean()))
    assert lost[1] < lost[0] - 0.1


def test_prompts_that_leave_no_room_are_counted_and_none_is_no_training(backbone: Backbone) -> None:
    long = tuple([5] * 64)
    judge = Liking(backbone)
    result = ppo.train(backbone, judge, [long, ()], TOY, Heard())
    assert (result.steps, result.too_long, judge.asked) == (0, 2, 0)
