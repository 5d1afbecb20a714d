"""What follows a known reward wins more of it on prompts that it never saw, and stays near the anchor: RLOO, GRPO and
RAFT, on the built-in model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.constitution.asking import question
from learner.methods import ppo, raft
from learner.methods.rollouts import roll_out, share_preferred
from learner.pretrain.questions import draw_prompts
from service.settings import SPROUT, LearnerSettings, PpoSettings, RaftSettings
from tests.learner.progress import Heard

SETTINGS = LearnerSettings()
LENGTH = 24
"""Tokens beyond which a reply is long; what is sampled is cut at twice as many."""
RLOO = PpoSettings(
    advantages="rloo", iterations=4, prompts=16, replies=4, minibatch=32, learning_rate=3e-3, max_new_tokens=2 * LENGTH,
    pretraining_coefficient=0.0,
)  # fmt: skip
RAFT = RaftSettings(iterations=3, prompts=24, replies=4, learning_rate=3e-3, max_new_tokens=2 * LENGTH)


class Brief:
    """Likes short replies, but no emptiness: the reward falls with every token beyond the third."""

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        return torch.tensor([-abs(len(reply) - 3) / LENGTH for _, reply in examples])


@pytest.mark.parametrize(
    "how", [RLOO, RLOO.model_copy(update={"advantages": "grpo"}), RAFT], ids=["rloo", "grpo", "raft"]
)
def test_more_is_won_on_prompts_that_were_held_out_and_kl_stays_in_its_budget(how: PpoSettings | RaftSettings) -> None:
    backbone, judge = Backbone.load(SPROUT, SETTINGS), Brief()
    asked, held_out = (
        [question(backbone.tokenizer, prompt.text) for prompt in draw_prompts(count, 7, held_out=is_held_out)]
        for count, is_held_out in ((32, False), (24, True))
    )

    def said(role: Role, seed: int) -> tuple[Tensor, float]:
        found = roll_out(backbone, judge, held_out, 2, role, seed)
        return found.grades, found.kl_per_token

    theirs, _ = said("base", 5)
    if isinstance(how, PpoSettings):
        ppo.train(backbone, judge, asked, how, Heard())
    else:
        raft.train(backbone, judge, asked, how, Heard())
    ours, kl_per_token = said("policy", 6)
    assert share_preferred(ours, theirs) > 0.65
    assert 0 < kl_per_token < SETTINGS.max_kl_per_token
