"""What a judge prefers, learned by a reward model and what follows it (`learner.preferences`), on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Label, Pair
from learner.methods import reward
from learner.methods.reward_model import RewardModel
from learner.trainer import stages_of
from service.settings import EngineSettings, LearnerSettings, PpoSettings, RaftSettings, Settings
from tests.learner.lessons import ASKED, RIGHT, WRONG, lessons
from tests.learner.progress import Told
from tests.learner.tiny_model import build_tiny_model, ids


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_ai_feedback_is_learned_beside_what_people_compared(
    method: Literal["ppo", "raft"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, fit, alone_weights = list[Pair](), reward.fit, list[float]()

    def watched(backbone: Backbone, pairs: Sequence[Pair], *rest: Any) -> RewardModel:
        fitted.extend(pairs)
        alone_weights.append(rest[-1])
        return fit(backbone, pairs, *rest)

    monkeypatch.setattr(reward, "fit", watched)
    model = build_tiny_model(tmp_path, context=512)
    small = {"iterations": 3, "prompts": 4, "replies": 2, "minibatch": 4, "max_new_tokens": 8}
    settings = Settings(
        home=tmp_path, engine=EngineSettings(model=str(model)),
        learner=LearnerSettings(rank=4, alpha=8.0, preferences=method, threads=1),
        ppo=PpoSettings.model_validate(small), raft=RaftSettings.model_validate(small),
    )  # fmt: skip
    by_judge = [Pair(ASKED, RIGHT, WRONG, certainty=0.9) for _ in range(4)]
    kept = ((ids("<bos> one ?"), ids("yes .", end=True)),)
    taught = lessons()
    thumbs = tuple(Label(pair.prompt_token_ids, pair.chosen, True) for pair in taught.train.pairs[:3])
    train = replace(taught.train, ai_pairs=tuple(by_judge), kept=kept, labels=thumbs)
    taught = replace(taught, train=train)
    stages, told = stages_of("rl-cai", taught.train, method), Told()
    trainer = BackboneTrainer(settings, None)
    trainer.train(stages, taught, tmp_path / "checkpoint", told)
    assert stages == (method,) and told.phases == ["reward", method]
    people = {pair.prompt_token_ids for pair in taught.train.pairs}
    of_people = sum(pair.weight for pair in fitted if pair.prompt_token_ids in people)
    share = of_people / sum(pair.weight for pair in fitted)
    alone = alone_weights[0] * len(thumbs)  # as much as so many pairs
    in_all = len(fitted) + alone
    assert (share * len(fitted) + alone) / in_all == pytest.approx(settings.constitution.human_share)
    assert sum(pair.chosen == RIGHT and pair.prompt_token_ids == ASKED for pair in fitted) == len(by_judge)
    assert any(probe["logprobs"] != probe["base_logprobs"] for probe in trainer.probes(taught))
