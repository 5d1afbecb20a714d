"""A few corrections teach the built-in model facts that it gives when asked in other words, near the anchor."""

from __future__ import annotations

import pytest

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.base_tokenizer import reply_tokenizer
from learner.batch import Demonstration
from learner.constitution.asking import question
from learner.methods import retention, self_asked, sft
from learner.methods.rollouts import roll_out
from learner.pretrain.questions import is_right, rephrase, untaught_facts
from learner.sampling import sample
from service.settings import SPROUT, LearnerSettings
from tests.learner.brief import asked
from tests.learner.progress import Heard

SETTINGS = LearnerSettings()


def test_more_answers_are_right_in_wordings_that_were_held_out_and_kl_stays_in_its_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "OTHERS", 32)
    for name, few in {"NEIGHBOURS": 16, "TRIES": 64}.items():
        monkeypatch.setattr(self_asked, name, few)
    backbone, write = Backbone.load(SPROUT, SETTINGS), reply_tokenizer(str(SPROUT))
    facts = untaught_facts()[:8]
    taught = [
        Demonstration(question(backbone.tokenizer, fact.text), write(f"It is {fact.answers[0]}.")) for fact in facts
    ]
    in_other_words = [rephrase(fact, 1) for fact in facts]

    def right(role: Role) -> int:
        prompts = [question(backbone.tokenizer, fact.text) for fact in in_other_words]
        replies = sample(backbone, prompts, role=role, temperature=0.0)
        texts = backbone.decode([reply.token_ids for (reply,) in replies])
        return sum(is_right(fact, text) for fact, text in zip(in_other_words, texts, strict=True))

    sft.train(backbone, taught, asked(backbone, 64), SETTINGS, Heard())
    assert right("policy") >= right("base") + 5
    elsewhere = roll_out(backbone, None, asked(backbone, 24, held_out=True), 2, "policy", 6)
    assert 0 < elsewhere.kl_per_token < SETTINGS.max_kl_per_token
