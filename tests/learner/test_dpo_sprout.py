"""A few comparisons teach the built-in model a taste that shows where nobody compared, near the anchor."""

from __future__ import annotations

import pytest

from learner.backbone import Backbone
from learner.methods import pairs_dpo
from service.settings import SPROUT, LearnerSettings
from tests.learner.brief import asked, comparisons, won
from tests.learner.progress import Heard

SETTINGS = LearnerSettings(dpo_on="pairs", dpo_epochs=6)


def test_more_is_won_on_prompts_that_were_held_out_and_kl_stays_in_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_dpo, "CHECKED_PROMPTS", 12)
    backbone = Backbone.load(SPROUT, SETTINGS)
    prompts = asked(backbone, 64)
    pairs_dpo.train(backbone, comparisons(backbone, prompts), prompts, SETTINGS, Heard())
    share_won, kl_per_token = won(backbone)
    assert share_won > 0.65
    assert 0 < kl_per_token < SETTINGS.max_kl_per_token
