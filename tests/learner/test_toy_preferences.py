"""DPO, on pairs and on samples, comes near the best policy where it can be listed: π ∝ anchor · exp(reward / β)."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import Pair
from learner.methods import groups, pairs_dpo, preference, rollouts, strength
from learner.methods.answers import Answer
from learner.sampling import sample
from service.settings import LearnerSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import build_tiny_model
from tests.learner.toy_language import ASKED, BETA, LONGEST, TOKENS, Beginning, distance, optimum, policy

SETTINGS = LearnerSettings(
    rank=8, alpha=16.0, dpo_beta=BETA, dpo_learning_rate=2e-2, min_fluency=-100.0, max_kl_per_token=100.0
)
"""The limits are far away: nothing is held back."""
SAMPLED, COMPARED = 384, 32
"""Replies to a prompt, and how many of them a step of DPO on samples compares."""
NEAR = 0.2
"""Of the way to the best policy, what may be left: with β or τ twice or half as large it is above a quarter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("toy"), width=16, words=TOKENS)


@pytest.fixture(autouse=True)
def nothing_but_the_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what keeps the policy's sense beside the paper: each moves the optimum."""
    for name in ("STAY", "KEEP", "KEEP_ELSEWHERE"):
        monkeypatch.setattr(groups, name, 0.0)
    monkeypatch.setattr(groups, "TRAINED_REPLIES", COMPARED)
    monkeypatch.setattr(rollouts, "BROKEN", 0.0)
    monkeypatch.setattr(rollouts, "MAX_NEW_TOKENS", LONGEST)
    monkeypatch.setattr(strength, "ENOUGH_WON", 1.0)
    few = {
        "ITERATIONS": 0,
        "MOST_ITERATIONS": 1,
        "WANTED_WON": 0.0,
        "STRENGTH": 0.0,
        "REPLIES": SAMPLED,
        "PAIRS_WEIGHT": 0.0,
    }
    for name, value in few.items():
        monkeypatch.setattr(preference, name, value)


def pairs(backbone: Backbone, count: int) -> list[Pair]:
    """What the anchor says, with the odds of being preferred that the reward gives (Bradley-Terry)."""
    found, judge = list[Pair](), Beginning()
    for row in sample(backbone, ASKED, per_prompt=2 * count, max_new_tokens=LONGEST, seed=3):
        replies = [reply.token_ids for reply in row]
        for first, second in zip(replies[::2], replies[1::2], strict=True):
            one, other = judge.score([((), first), ((), second)])
            if first != second:
                certainty = float(torch.sigmoid(one - other))
                found.append(Pair(ASKED[row[0].prompt], first, second, certainty=certainty))
    Random(0).shuffle(found)
    return found


def test_dpo_on_pairs_comes_near_the_best_policy(folder: Path) -> None:
    """With certainties taken for choices more than half of the way is left."""
    settings = SETTINGS.model_copy(update={"dpo_epochs": 8, "batch_size": 32})
    backbone = Backbone.load(folder, settings)
    best, before = optimum(backbone), policy(backbone)
    result = pairs_dpo.train(backbone, pairs(backbone, 512), [], settings, Heard())
    assert result.metrics["scale"] == 1
    assert distance(policy(backbone), best) < NEAR * distance(before, best)


class Known(Beginning):
    """The reward as a preference model that is never wrong, read so that τ is β."""

    fit = SimpleNamespace(accuracy=1.0, log_score=0.0, decided=10**9, spread=preference.NATS * BETA)


def test_dpo_on_samples_comes_near_the_best_policy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference, "fit_preferences", lambda *_: Known())
    monkeypatch.setattr(preference, "neighbours_apart", lambda *_: ([], []))
    monkeypatch.setattr(preference, "answers", lambda _, prompts, __: dict.fromkeys(prompts, Answer()))
    settings = SETTINGS.model_copy(update={"dpo_epochs": 200, "dpo_learning_rate": 3e-2})
    backbone = Backbone.load(folder, settings)
    best, before = optimum(backbone), policy(backbone)
    result = preference.train(backbone, pairs(backbone, 4), ASKED, settings, Heard())
    assert result.steps == 200 and result.metrics["scale"] == 1
    assert distance(policy(backbone), best) < NEAR * distance(before, best)
