"""The loop of reinforcement learning finds the best policy of replies of several tokens, where it can be listed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.methods import ppo
from service.settings import LearnerSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import build_tiny_model
from tests.learner.toy_language import ASKED, REPLIES, TOKENS, TOY, Beginning, distance, optimum, policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("toy"), width=16, words=TOKENS)


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))


def test_all_that_can_be_said_is_listed(backbone: Backbone) -> None:
    assert len(set(REPLIES)) == len(REPLIES) == 1 + 7 + 49 + 343
    torch.testing.assert_close(policy(backbone).exp().sum(1), torch.ones(len(ASKED)).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"advantages": "gae"},
        {"advantages": "reinforce"},
        {"advantages": "rloo"},
        {"advantages": "grpo"},
        {"advantages": "grpo", "grpo_scale": False},
    ],
    ids=["gae", "reinforce", "rloo", "grpo", "dr-grpo"],
)
def test_the_policy_comes_near_the_best_one(backbone: Backbone, settings: dict[str, object]) -> None:
    """With credit at the wrong tokens (the last alone, or each one's successor's) more than half of the way is left.

    GRPO has the same optimum: where all of a group's rewards, less what KL costs, are the same, nothing moves it.
    """
    best, before = optimum(backbone), policy(backbone)
    assert distance(before, best) > 0.9  # nats
    ppo.train(backbone, Beginning(), ASKED, TOY.model_copy(update=settings), Heard())
    assert distance(policy(backbone), best) < 0.15 * distance(before, best)
