"""What a training asks of an engine: replies of its policy, loaded for a round, each token with its log-probability."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import collate
from learner.engine_sampler import EngineSampler
from learner.importance import token_importance
from learner.rollout_engines import Engines
from service.settings import SPROUT, LearnerSettings
from tests.engine_contract.asking import END, PROMPT
from tests.fixtures.engines import CONTEXT, MAX_LORAS, ServedEngine


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """`sprout` with a policy that isn't the base."""
    backbone = Backbone.load(SPROUT, LearnerSettings())
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.trainable():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise).to(parameter))
    return backbone


def test_an_engine_samples_for_a_training_and_forgets_the_policy(
    engine: ServedEngine, backbone: Backbone, tmp_path: Path
) -> None:
    engines = Engines((engine.url,), tmp_path / "passing", MAX_LORAS, context=CONTEXT)
    sampler = EngineSampler(backbone, engines, "run_7")
    prompts = [tuple(PROMPT), tuple(PROMPT[:-4])]
    for _ in range(2):  # a second round, with another name
        rows = sampler.sample(prompts, per_prompt=6, max_new_tokens=40, seed=3, tell=lambda waits: None)
        replies = [reply for row in rows for reply in row]
        assert [reply.prompt for reply in replies] == [0] * 6 + [1] * 6
        assert all(END not in reply.token_ids[:-1] and len(reply.token_ids) <= 40 for reply in replies)
        assert all(reply.ended == (reply.token_ids[-1] == END) for reply in replies)
        assert any(reply.ended for reply in replies) and len({reply.token_ids for reply in replies}) > 3
        assert not [card for card in engine.models() if card["id"].startswith("passing")]
    batch = collate([(prompts[reply.prompt], reply.token_ids) for reply in replies], backbone.pad_id)
    with torch.no_grad():
        own, base = backbone.log_probs(batch).cpu(), backbone.log_probs(batch, "base").cpu()
    _, metrics = token_importance(replies, own, batch.reply_mask, cap=2.0)
    assert metrics["engine_gap"] < engine.close_to and abs(metrics["importance"] - 1) < engine.close_to
    _, of_base = token_importance(replies, base, batch.reply_mask, cap=2.0)
    assert of_base["engine_gap"] > 2 * metrics["engine_gap"]  # it would show if the base had answered
