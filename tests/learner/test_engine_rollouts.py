"""Learning from a real engine's replies is learning from the trainer's own; one that dies meanwhile costs time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from learner import passing
from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import WAITING, Snapshot
from learner.engine_sampler import EngineSampler
from learner.methods import ppo, raft
from learner.methods.experience import Appraiser
from learner.rollout_engines import Engines, passing_folder
from learner.sampler import InProcessSampler, Sampler
from service.errors import TrainingFailed
from service.settings import EngineSettings, LearnerSettings, PpoSettings, Settings
from tests.embedded.models import save_adapter
from tests.fixtures.engine_process import EngineProcess
from tests.learner.lessons import lessons
from tests.learner.progress import Heard
from tests.learner.tiny_model import build_tiny_model
from tests.learner.toy_rewards import PROMPTS, TOY_PPO, TOY_RAFT, Counting, Liking, distance, next_word, optimum

LEARNER = LearnerSettings(rank=8, alpha=16.0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_tiny_model(tmp_path_factory.mktemp("tiny"), width=32)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    return model


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[EngineProcess]:
    process = EngineProcess(model_folder)
    process.wait()
    yield process
    process.kill()


@pytest.fixture
def backbone(model_folder: Path) -> Backbone:
    return Backbone.load(model_folder, LEARNER)


@pytest.fixture
def engines(engine: EngineProcess, tmp_path: Path) -> Engines:
    return Engines((engine.url,), tmp_path / "passing", slots=8, wait_seconds=120.0)


def held(engine: EngineProcess) -> list[str]:
    cards = httpx2.get(f"{engine.url}/v1/models", trust_env=False).json()["data"]
    return [card["id"] for card in cards if card["parent"] is not None]


def both(backbone: Backbone, engines: Engines) -> dict[str, Sampler]:
    return {"trainer": InProcessSampler(backbone), "engine": EngineSampler(backbone, engines, "run_7")}


def test_both_sample_what_the_policy_says(backbone: Backbone, engine: EngineProcess, engines: Engines) -> None:
    """The mean log-probability of what is said is minus the entropy, within three standard errors."""
    with torch.no_grad():
        for parameter in backbone.trainable():  # a policy that isn't the base
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    log_probs, base = next_word(backbone), next_word(backbone, "base")
    assert distance(log_probs, base) > 0.05
    means, count = (log_probs.exp() * log_probs).sum(-1), 128
    spread = ((log_probs.exp() * log_probs.square()).sum(-1) - means.square()).sqrt() / math.sqrt(count)
    for sampler in both(backbone, engines).values():
        rows = sampler.sample(PROMPTS, per_prompt=count, max_new_tokens=1, seed=3, tell=lambda waits: None)
        said = torch.tensor(
            [[log_probs[number, reply.token_ids[0]] for reply in row] for number, row in enumerate(rows)]
        )
        assert ((said.mean(1) - means).abs() < 3 * spread).all()
        assert rows == sampler.sample(PROMPTS, per_prompt=count, max_new_tokens=1, seed=3, tell=lambda waits: None)
    assert not held(engine)


def test_experience_has_the_same_shape_and_in_float32_weights_of_one(model_folder: Path, engines: Engines) -> None:
    settings = TOY_PPO.model_copy(update={"max_new_tokens": 12, "replies": 8})
    found = {}
    for name in ("trainer", "engine"):
        backbone = Backbone.load(model_folder, LEARNER)
        sampler = both(backbone, engines)[name]
        backbone.add_head("value")
        rows = sampler.sample(PROMPTS, per_prompt=8, max_new_tokens=12, seed=2, tell=lambda waits: None)
        found[name] = Appraiser(backbone, Liking(backbone), settings).appraise(PROMPTS, rows)
        width = max(len(PROMPTS[reply.prompt]) + len(reply.token_ids) for row in rows for reply in row)
        shapes = {getattr(found[name], one).shape for one in ("log_probs", "values", "advantages", "returns", "mask")}
        assert shapes == {(len(PROMPTS) * 8, width)}
    weights = found["engine"].importance
    assert found["trainer"].importance is None and weights is not None
    mask = found["engine"].mask
    assert (weights[mask] - 1).abs().max() < 1e-3 and not weights[~mask].any()


def test_ppo_comes_near_the_best_policy_from_either_s_replies(
    model_folder: Path, engine: EngineProcess, engines: Engines
) -> None:
    settings = TOY_PPO.model_copy(update={"advantages": "rloo", "iterations": 25})
    left = {}
    for name in ("trainer", "engine"):
        backbone = Backbone.load(model_folder, LEARNER)
        best, before, heard = optimum(backbone), next_word(backbone), Heard()
        sampler = both(backbone, engines)[name]
        result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, heard, sampler=sampler)
        left[name] = distance(next_word(backbone), best) / distance(before, best)
        assert result.steps > 0 and result.skipped_steps == 0
        measured = [metrics for *_, metrics in heard.steps if metrics]
        if name == "engine":
            assert all(abs(one["importance"] - 1) < 1e-3 and one["importance_capped"] == 0 for one in measured)
            assert all(one["engine_gap"] < 1e-3 for one in measured)
        else:
            assert not any("importance" in one for one in measured)
    assert max(left.values()) < 0.15, left
    assert not held(engine) and not list(engines.folder.iterdir())


def test_raft_says_what_is_rewarded_from_the_engine_s_replies(backbone: Backbone, engines: Engines) -> None:
    settings, heard = TOY_RAFT.model_copy(update={"iterations": 4}), Heard()
    raft.train(backbone, Counting(), PROMPTS, settings, heard, sampler=EngineSampler(backbone, engines, "run_7"))
    rewards = [metrics["reward"] for *_, metrics in heard.steps if metrics]
    assert rewards[-1] > rewards[0] + 0.2


def test_an_adapter_that_is_not_the_policy_s_shows(
    backbone: Backbone, engines: Engines, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TOY_PPO.model_copy(update={"advantages": "rloo", "iterations": 1})
    monkeypatch.setattr(backbone, "save_adapter", lambda folder: save_adapter(folder, model_folder, seed=1))
    with pytest.raises(TrainingFailed, match="something else than the policy"):
        ppo.train(
            backbone, Liking(backbone), PROMPTS, settings, Heard(), sampler=EngineSampler(backbone, engines, "run_7")
        )
    loose = replace(engines, tolerance=100.0)
    sampler = EngineSampler(backbone, loose, "run_7")
    metrics = ppo.train(backbone, Liking(backbone), PROMPTS, settings, Heard(), sampler=sampler).metrics
    assert metrics["engine_gap"] > 0.1 and metrics["importance_capped"] > 0.01


def test_an_engine_that_is_killed_and_started_again_costs_a_pause(
    backbone: Backbone, engine: EngineProcess, engines: Engines
) -> None:
    settings = TOY_PPO.model_copy(update={"advantages": "rloo", "iterations": 6})

    class Killing(Heard):
        died = came_back = 0

        def __call__(self, phase: str, step: int, *rest: Any) -> None:
            super().__call__(phase, step, *rest)
            if phase == "rloo" and step == 4 and not self.died:
                engine.kill()
                self.died = len(self.steps)
            if phase == WAITING and not self.came_back:
                engine.start()
                self.came_back = len(self.steps)

    heard = Killing()
    sampler = EngineSampler(backbone, engines, "run_7")
    result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, heard, sampler=sampler)
    assert heard.died and heard.came_back and {phase for phase, *_ in heard.steps} == {"rloo", WAITING}
    assert result.replies == 6 * TOY_PPO.prompts * TOY_PPO.replies and result.metrics["importance"] == pytest.approx(
        1, abs=1e-3
    )
    assert not held(engine) and not list(engines.folder.iterdir())


def test_a_run_of_the_trainer_samples_where_the_settings_say_and_clears_what_a_killed_one_left(
    model_folder: Path, engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = LearnerSettings(rank=4, alpha=8.0, threads=1, rollouts="engine", rollout_urls=(engine.url,))
    how = PpoSettings(iterations=2, value_warmup=1, prompts=4, replies=2, minibatch=4, max_new_tokens=8)
    settings = Settings(home=tmp_path, engine=EngineSettings(model=str(model_folder)), learner=learner, ppo=how)
    left = save_adapter(passing_folder(settings) / "passing-run_7-dead-2", model_folder, seed=1)
    body = {"lora_name": left.name, "lora_path": str(left)}
    assert httpx2.post(f"{engine.url}/v1/load_lora_adapter", json=body, trust_env=False).status_code == 200
    asked = list[str]()
    monkeypatch.setattr(passing, "AT_ONCE", 2)
    write = EngineSampler._write

    def noting(self: EngineSampler, name: str) -> Path:
        asked.append(name)
        return write(self, name)

    monkeypatch.setattr(EngineSampler, "_write", noting)
    taught = lessons()
    taught = replace(taught, train=replace(taught.train, demonstrations=()), held_out=Snapshot())
    heard = Heard()
    BackboneTrainer(settings, None, run_id="run_7").train(("ppo",), taught, tmp_path / "checkpoint", heard)
    assert len(asked) == 2 and all(name.startswith("passing-run_7-") for name in asked)
    measured = [metrics for phase, *_, metrics in heard.steps if phase == ppo.PHASE and metrics]
    assert all(abs(one["importance"] - 1) < 1e-3 for one in measured) and measured
    assert not held(engine) and not list(passing_folder(settings).iterdir())
