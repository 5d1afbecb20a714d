"""A few thumbs teach the built-in model a taste, and cost it no answers."""

from __future__ import annotations

import pytest

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Label, TokenIds
from learner.constitution.asking import question
from learner.methods import kto
from learner.pretrain.questions import draw_prompts, is_right
from learner.sampling import sample
from service.settings import SPROUT, LearnerSettings
from tests.learner.brief import won
from tests.learner.progress import Heard

SETTINGS = LearnerSettings()
MOST_WORDS = 6


def said(backbone: Backbone, prompts: list[TokenIds], role: Role, temperature: float = 1.0) -> list[str]:
    replies = sample(backbone, prompts, role=role, temperature=temperature, seed=3)
    return backbone.decode([reply.token_ids for (reply,) in replies])


def test_thumbs_of_people_who_like_short_replies_shorten_them_and_cost_no_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kto, "CHECKED_PROMPTS", 16)
    backbone = Backbone.load(SPROUT, SETTINGS)
    asked = [question(backbone.tokenizer, prompt.text) for prompt in draw_prompts(36, 101)]
    replies = [reply for (reply,) in sample(backbone, asked, role="base", seed=6)]
    texts = backbone.decode([reply.token_ids for reply in replies])
    labels = [
        Label(prompt, reply.token_ids, len(text.split()) <= MOST_WORDS)
        for prompt, reply, text in zip(asked, replies, texts, strict=True)
    ]
    kto.train(backbone, labels, asked, SETTINGS, Heard())
    held_out = [question(backbone.tokenizer, prompt.text) for prompt in draw_prompts(48, 7, held_out=True)]
    own, base = (said(backbone, held_out, role) for role in ("policy", "base"))
    assert sum(len(text.split()) for text in own) < 0.8 * sum(len(text.split()) for text in base)
    assert all(text.strip() for text in own)
    share_won, kl_per_token = won(backbone)
    assert share_won > 0.6
    assert 0 < kl_per_token < SETTINGS.max_kl_per_token
    questions = [prompt for prompt in draw_prompts(120, 8, held_out=True) if prompt.answers][:32]
    greedy = said(backbone, [question(backbone.tokenizer, one.text) for one in questions], "policy", temperature=0.0)
    assert sum(is_right(question, text) for question, text in zip(questions, greedy, strict=True)) >= 30
