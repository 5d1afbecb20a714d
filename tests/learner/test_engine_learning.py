"""PPO and RAFT over an engine's replies: interrupted or not, they come to the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.backbone import Backbone
from learner.engine_sampler import EngineSampler
from learner.methods import ppo, raft
from learner.stage_checkpoint import StageCheckpoint
from service.settings import RaftSettings
from tests.learner.engine_sampling import backbone as backbone
from tests.learner.engine_sampling import engine as engine
from tests.learner.engine_sampling import engines
from tests.learner.pretend_engine import PretendEngine
from tests.learner.progress import Heard
from tests.learner.tiny_backbone import SETTINGS
from tests.learner.toy_rewards import PROMPTS, TOY_PPO, Counting, Liking


def test_ppo_pauses_while_the_engine_is_away_and_ends_as_if_it_had_not_been(
    engine: PretendEngine, folder: Path, tmp_path: Path
) -> None:
    settings = TOY_PPO.model_copy(update={"iterations": 4, "replies": 4})
    found = []
    for restarts in (False, True):
        backbone = Backbone.load(folder, SETTINGS)
        pretend = PretendEngine(backbone)

        def go_away(pretend: PretendEngine, restarts: bool = restarts) -> None:
            if restarts and len(pretend.loads) == 3:
                pretend.away, pretend.fails = True, lambda engine: None
                pretend.restart()

        class Back(Heard):
            def __call__(self, phase: str, *rest: Any, pretend: PretendEngine = pretend) -> None:
                super().__call__(phase, *rest)
                if phase == "waiting for the engine":
                    pretend.away = False

        pretend.fails = go_away
        heard = Back()
        sampler = EngineSampler(backbone, engines(tmp_path, pretend), "run_7")
        result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, heard, sampler=sampler)
        assert ("waiting for the engine" in {phase for phase, *_ in heard.steps}) == restarts
        assert result.metrics["importance"] == pytest.approx(1.0, abs=1e-4)
        found.append((result, {name: tensor.tolist() for name, tensor in backbone.adapter_state().items()}))
    assert json.dumps(found[0][1]) == json.dumps(found[1][1]) and found[0][0] == found[1][0]


def test_importance_is_far_from_one_where_another_policy_answered(engine: PretendEngine, tmp_path: Path) -> None:
    engine.drift = -0.5
    heard, terms = Heard(), engines(tmp_path, engine, tolerance=10.0)
    settings = TOY_PPO.model_copy(update={"iterations": 1, "value_warmup": 0, "importance_cap": 1.2})
    sampler = EngineSampler(engine.backbone, terms, "run_7")
    result = ppo.train(engine.backbone, Liking(engine.backbone), PROMPTS, settings, heard, sampler=sampler)
    assert result.metrics["importance_capped"] == 1.0 and result.metrics["importance"] == pytest.approx(1.2)
    assert result.metrics["engine_gap"] == pytest.approx(0.5, abs=1e-4)


def test_raft_takes_its_replies_from_the_engine_and_its_kl_from_the_trainer(
    engine: PretendEngine, tmp_path: Path
) -> None:
    engine.drift = 0.1
    settings = RaftSettings(iterations=3, prompts=4, replies=8, minibatch=4, learning_rate=1e-2, max_new_tokens=8)
    heard = Heard()
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    result = raft.train(engine.backbone, Counting(), PROMPTS, settings, heard, sampler=sampler)
    assert len(engine.loads) == 3 and result.replies == 3 * 4 * 8
    first = next(metrics for *_, metrics in heard.steps if metrics)
    assert first["kl_per_reply"] == pytest.approx(0.0, abs=1e-4)  # the policy is still the anchor


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_a_training_that_is_killed_goes_on_from_the_engine_s_replies_and_comes_to_the_same(
    folder: Path, tmp_path: Path, method: str
) -> None:
    small = {"iterations": 4, "replies": 4, "minibatch": 8, "max_new_tokens": 6}
    found, asked = [], []

    class Dying(Heard):
        def __call__(self, phase: str, step: int, *rest: Any) -> None:
            super().__call__(phase, step, *rest)
            if step == 5:
                raise KeyboardInterrupt

    def learn(heard: Heard, checkpoint: StageCheckpoint) -> None:
        backbone = Backbone.load(folder, SETTINGS)
        pretend = PretendEngine(backbone)
        sampler = EngineSampler(backbone, engines(tmp_path, pretend), "run_7")
        try:
            if method == "ppo":
                how = TOY_PPO.model_copy(update=small)
                ppo.train(backbone, Counting(), PROMPTS, how, heard, sampler=sampler, checkpoint=checkpoint)
            else:
                how_too = RaftSettings.model_validate(small)
                raft.train(backbone, Counting(), PROMPTS, how_too, heard, sampler=sampler, checkpoint=checkpoint)
        finally:
            asked.append(len(pretend.loads))
        found.append(backbone.adapter_state())

    learn(Heard(), StageCheckpoint())
    with pytest.raises(KeyboardInterrupt):
        learn(Dying(), StageCheckpoint(tmp_path / "it", "this"))
    learn(Heard(), StageCheckpoint(tmp_path / "it", "this"))
    assert asked[0] == 4 and 0 < asked[2] < 4
    for name, weights in found[0].items():
        assert torch.equal(found[1][name], weights), name
