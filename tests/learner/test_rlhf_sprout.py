"""Reward model and PPO teach the built-in model a taste from comparisons and thumbs, near the anchor and at no cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Label, Pair, TokenIds
from learner.constitution.asking import question
from learner.methods import rlhf
from learner.pretrain.questions import draw_prompts
from learner.sampling import Reply, sample
from service.errors import TrainingFailed
from service.settings import SPROUT, LearnerSettings, PpoSettings
from tests.learner.brief import won
from tests.learner.progress import Heard
from tests.learner.tiny_model import build_tiny_model, ids

SETTINGS = LearnerSettings(reward_epochs=6, seed=2)
PPO = PpoSettings(iterations=5, prompts=16, replies=4, minibatch=16, learning_rate=3e-3)


def words(backbone: Backbone, replies: list[list[Reply]]) -> list[int]:
    return [len(text.split()) for text in backbone.decode([reply.token_ids for row in replies for reply in row])]


def test_people_who_like_short_replies_get_shorter_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlhf, "CHECKED_PROMPTS", 12)
    monkeypatch.setattr(rlhf, "KEPT_PROMPTS", 32)
    backbone = Backbone.load(SPROUT, SETTINGS)
    asked: list[TokenIds] = [question(backbone.tokenizer, prompt.text) for prompt in draw_prompts(144, 101)]
    pairs, labels = list[Pair](), list[Label]()
    for number, (one, other) in enumerate(sample(backbone, asked, role="base", per_prompt=2, seed=6)):
        short, long = sorted((one, other), key=lambda reply: len(reply.token_ids))
        if number < 132 and len(short.token_ids) < len(long.token_ids):
            pairs.append(Pair(asked[number], short.token_ids, long.token_ids))
        elif number >= 132:
            labels.append(Label(asked[number], one.token_ids, len(one.token_ids) <= 12))
    heard = Heard()
    result = rlhf.train(backbone, pairs, labels, asked, SETTINGS, PPO, heard)
    assert result.reward.log_likelihood is not None and result.reward.log_likelihood > -0.67  # a coin's is -0.69
    held_out = [question(backbone.tokenizer, prompt.text) for prompt in draw_prompts(48, 7, held_out=True)]

    def said(role: Role) -> list[int]:
        return words(backbone, sample(backbone, held_out, role=role, seed=3))

    own, base = said("policy"), said("base")
    assert sum(own) < 0.85 * sum(base) and all(own)
    assert won(backbone)[0] > 0.6
    assert 0 < result.metrics["kl_per_token"] < SETTINGS.max_kl_per_token
    assert result.metrics["fluency"] > SETTINGS.min_fluency
    assert {phase for phase, *_ in heard.steps} == {"reward", "ppo"}


def test_an_empty_reply_is_worth_less_than_any_other() -> None:
    backbone = Backbone.load(SPROUT, SETTINGS)
    asked = [question(backbone.tokenizer, prompt.text) for prompt in draw_prompts(8, 101)]

    class Silence:
        def score(self, examples: object) -> torch.Tensor:
            return -torch.tensor([float(len(reply)) for _, reply in examples])  # type: ignore[attr-defined]

    judge = rlhf.Sensible(backbone, Silence(), asked, {}, nat=0.1, seed=0)
    end = (int(backbone.tokenizer.eos_token_id),)
    long = tuple(backbone.tokenizer.encode("Hello there, it is good to see you.", add_special_tokens=False))
    nothing, something = judge.score([(asked[0], end), (asked[0], (*long, *end))]).tolist()
    assert nothing < something


def test_without_a_prompt_that_leaves_room_it_says_so(tmp_path: Path) -> None:
    backbone = Backbone.load(build_tiny_model(tmp_path), LearnerSettings(rank=2))
    pairs = [Pair(ids("<bos> " + "one " * 40), ids("yes", end=True), ids("no", end=True))]
    with pytest.raises(TrainingFailed, match="leaves room"):
        rlhf.train(backbone, pairs, [], [], LearnerSettings(reward_epochs=1), PPO, Heard())
