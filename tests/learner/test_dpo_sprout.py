"""A few comparisons teach the built-in model a taste that shows where nobody compared, near the anchor: by DPO on
people's own pairs, and on samples of the policy that a model of what they prefer has graded."""

from __future__ import annotations

import pytest

from learner.backbone import Backbone
from learner.methods import pairs_dpo, preference
from service.settings import SPROUT, LearnerSettings
from tests.learner.brief import asked, comparisons, won
from tests.learner.progress import Heard

PAIRS = LearnerSettings(dpo_on="pairs", dpo_epochs=6)
SAMPLES = LearnerSettings(dpo_on="samples", dpo_epochs=3)


@pytest.mark.parametrize("settings", [PAIRS, SAMPLES], ids=["pairs", "samples"])
def test_more_is_won_on_prompts_that_were_held_out_and_kl_stays_in_its_budget(
    settings: LearnerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pairs_dpo, preference):
        monkeypatch.setattr(module, "CHECKED_PROMPTS", 12)
    monkeypatch.setattr(preference, "PROMPTS", 24)
    monkeypatch.setattr(preference, "MOST_ITERATIONS", 2)
    backbone = Backbone.load(SPROUT, settings)
    prompts = asked(backbone, 64)
    learn = pairs_dpo.train if settings.dpo_on == "pairs" else preference.train
    learn(backbone, comparisons(backbone, prompts), prompts, settings, Heard())
    share_won, kl_per_token = won(backbone)
    assert share_won > 0.65
    assert 0 < kl_per_token < settings.max_kl_per_token
