"""What follows a known reward wins more of it on prompts that it never saw, and stays near the anchor: REINFORCE, RLOO,
GRPO and RAFT, on the built-in model."""

from __future__ import annotations

import pytest

from learner.backbone import Backbone
from learner.methods import ppo, raft
from service.settings import SPROUT, LearnerSettings, PpoSettings, RaftSettings
from tests.learner.brief import LENGTH, Brief, asked, won
from tests.learner.progress import Heard

SETTINGS = LearnerSettings()
RLOO = PpoSettings(
    advantages="rloo", iterations=4, prompts=16, replies=4, minibatch=32, learning_rate=3e-3, max_new_tokens=2 * LENGTH,
    pretraining_coefficient=0.0,
)  # fmt: skip
GRPO, REINFORCE = (RLOO.model_copy(update={"advantages": name}) for name in ("grpo", "reinforce"))
RAFT = RaftSettings(iterations=3, prompts=24, replies=4, learning_rate=3e-3, max_new_tokens=2 * LENGTH)


@pytest.mark.parametrize("how", [REINFORCE, RLOO, GRPO, RAFT], ids=["reinforce", "rloo", "grpo", "raft"])
def test_more_is_won_on_prompts_that_were_held_out_and_kl_stays_in_its_budget(how: PpoSettings | RaftSettings) -> None:
    backbone = Backbone.load(SPROUT, SETTINGS)
    if isinstance(how, PpoSettings):
        ppo.train(backbone, Brief(), asked(backbone, 32), how, Heard())
    else:
        raft.train(backbone, Brief(), asked(backbone, 32), how, Heard())
    share_won, kl_per_token = won(backbone)
    assert share_won > 0.65
    assert 0 < kl_per_token < SETTINGS.max_kl_per_token
