"""How far the policy is from the anchor: never below nothing, and on the average the true KL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import collate
from learner.evaluate.divergence import kl_of_replies
from learner.sampling import sample
from service.settings import LearnerSettings
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=4)
PROMPTS = [ids("<bos> what is it ?"), ids("<bos> one two")]


def test_a_policy_that_is_the_anchor_has_none_of_it(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    examples = [(PROMPTS[0], ids("it is paris .", end=True)), (PROMPTS[1], ids("no", end=True))]
    assert kl_of_replies(backbone, examples, "base").tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert kl_of_replies(backbone, examples, "base").min() >= 0 and kl_of_replies(backbone, [], "base").tolist() == []


def test_on_the_average_it_is_the_exact_kl_and_it_is_never_below_0(folder: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    rows = sample(backbone, PROMPTS, per_prompt=300, max_new_tokens=4, seed=1)
    examples = [(PROMPTS[reply.prompt], reply.token_ids) for row in rows for reply in row]
    found = kl_of_replies(backbone, examples, "base")
    assert found.min() >= 0
    batch = collate(examples, backbone.pad_id)
    with torch.no_grad():
        ours, theirs = (backbone.logits(batch, role)[0].log_softmax(-1) for role in ("policy", "base"))
    exact = (ours.exp() * (ours - theirs)).sum(-1).sum()
    assert float(found.sum()) == pytest.approx(float(exact), rel=0.1) and exact > 0
