"""A training says of how many prompts it could not sample replies, and stops where that is all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.backbone import Backbone
from learner.batch import Pair
from learner.methods import preference, rlhf
from service.errors import TrainingFailed
from service.settings import LearnerSettings, PpoSettings
from tests.learner.likings import LIKINGS, comparisons
from tests.learner.progress import Heard
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=8, alpha=16.0, dpo_epochs=1, min_fluency=-2.0)
LONG = ids("<bos> " + "one " * 40)  # of the 64 tokens that the model takes


def test_prompts_that_leave_no_room_for_a_reply_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ITERATIONS": 1, "MOST_ITERATIONS": 1, "PROMPTS": 8, "CHECKED_PROMPTS": 8}.items():
        monkeypatch.setattr(preference, name, value)
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 8)
    prompts = [ids("<bos> red you ?"), ids("<bos> what is it ?"), LONG]
    pairs = comparisons(LIKINGS["asks"], 20, seed=2)
    result = preference.train(Backbone.load(folder, SETTINGS), pairs, prompts, SETTINGS, Heard())
    assert result.steps and result.metrics["prompts_too_long"] == 1


def test_it_stops_with_the_reason_where_no_prompt_leaves_room_for_a_reply(folder: Path) -> None:
    pairs = [Pair(LONG, ids("one", end=True), ids("two", end=True))]
    with pytest.raises(TrainingFailed, match=r"half of a context of 64 tokens.*learner\.dpo_on to pairs"):
        preference.train(Backbone.load(folder, SETTINGS), pairs, [LONG], SETTINGS, Heard())


def test_prompts_to_follow_a_reward_on_are_counted_where_they_leave_no_room(folder: Path) -> None:
    settings = LearnerSettings(rank=2, reward_epochs=1)
    backbone = Backbone.load(folder, settings)
    how = PpoSettings(iterations=3, prompts=2, replies=2, max_new_tokens=4)
    short = ids("<bos> red you ?")
    pairs = [Pair(prompt, ids("yes", end=True), ids("no", end=True)) for prompt in (short, LONG)]
    prompts = [ids("<bos> what is it ?"), ids("<bos> " + "two " * 40)]
    result = rlhf.train(backbone, pairs, [], prompts, settings, how, Heard())
    assert (result.reward.too_long, result.policy.too_long) == (0, 2)
