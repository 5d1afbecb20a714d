"""Replies that a judge gives no finite reward are left out of learning, counted, and, where they are many, the reason
why a training ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.methods import ppo, raft
from learner.methods.experience import Appraiser
from learner.policy_losses import grpo_advantages, rloo_advantages
from learner.sampling import Reply
from service.errors import TrainingFailed
from service.settings import LearnerSettings, PpoSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import ids
from tests.learner.toy_rewards import PROMPTS, TOY_PPO, TOY_RAFT, Counting

FEW = TOY_PPO.model_copy(
    update={"iterations": 3, "replies": 8, "minibatch": 32, "epochs": 1, "max_new_tokens": 4, "normalise_rewards": True}
)


class Flawed(Counting):
    """Gives every so many-th reply this reward."""

    def __init__(self, every: int, reward: float = math.nan) -> None:
        super().__init__()
        self._every, self._reward = every, reward

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        places = torch.arange(len(self.graded), len(self.graded) + len(examples))
        return super().score(examples).masked_fill(places % self._every == 0, self._reward)


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))


@pytest.mark.parametrize(
    ("advantages", "reward"), [("gae", math.nan), ("reinforce", math.inf), ("rloo", -math.inf), ("grpo", math.nan)]
)
def test_a_few_such_replies_spoil_no_step(backbone: Backbone, advantages: str, reward: float) -> None:
    judge, heard, before = Flawed(16, reward), Heard(), backbone.adapter_state()
    result = ppo.train(backbone, judge, PROMPTS, FEW.model_copy(update={"advantages": advantages}), heard)
    assert result.skipped_steps == 0 and result.metrics["ungraded"] == result.ungraded == len(judge.graded) // 16
    assert result.replies == len(judge.graded) - result.ungraded
    assert all(math.isfinite(value) for _, _, _, metrics in heard.steps for value in metrics.values())
    assert any((one != before[name]).any() for name, one in backbone.adapter_state().items())


def experience(backbone: Backbone, rewards: list[list[float]], settings: PpoSettings) -> tuple[Appraiser, list[float]]:
    """The advantages of replies to two prompts with these rewards."""

    class Says:
        def score(self, _: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
            return torch.tensor([reward for row in rewards for reward in row])

    words = ("one", "two", "three", "four")
    sampled = [
        [Reply(place, ids(word, end=True), -1.0, True) for word in words[: len(row)]]
        for place, row in enumerate(rewards)
    ]
    appraiser = Appraiser(backbone, Says(), settings)
    found = appraiser.appraise(PROMPTS[: len(rewards)], sampled)
    assert len(found.mask) == sum(found.groups)
    return appraiser, found.advantages[found.mask].reshape(-1, 2)[:, 0].tolist()


@pytest.mark.parametrize(("advantages", "compare"), [("rloo", rloo_advantages), ("grpo", grpo_advantages)])
def test_the_others_are_compared_among_themselves(
    backbone: Backbone, advantages: str, compare: Callable[[Tensor], Tensor]
) -> None:
    settings = FEW.model_copy(update={"advantages": advantages, "kl_coefficient": 0.0, "normalise_rewards": False})
    nan = math.nan
    rewards = [[1.0, nan, 2.0, 6.0], [3.0, 1.0, 1.0, 0.0], [5.0, 1.0, 2.0, 0.0]]
    expected = [*compare(torch.tensor([[1.0, 2.0, 6.0]]))[0], *compare(torch.tensor(rewards[1:])).flatten()]
    appraiser, found = experience(backbone, rewards, settings)
    assert found == pytest.approx([float(one) for one in expected], abs=1e-5) and appraiser.ungraded == 1
    assert appraiser.measured["reward"] == pytest.approx(22 / 11)


@pytest.mark.parametrize("advantages", ["rloo", "grpo"])
def test_one_that_has_nothing_left_to_be_compared_with_is_left_out(backbone: Backbone, advantages: str) -> None:
    settings = FEW.model_copy(update={"advantages": advantages, "kl_coefficient": 0.0, "normalise_rewards": False})
    appraiser, found = experience(backbone, [[1.0, math.nan], [4.0, 2.0], [3.0, 3.0]], settings)
    assert len(found) == 4 and found[0] > 0 > found[1] and appraiser.ungraded == 1


@pytest.mark.parametrize("advantages", ["gae", "reinforce"])
def test_the_running_moments_know_nothing_of_them(backbone: Backbone, advantages: str) -> None:
    settings = FEW.model_copy(update={"advantages": advantages})
    backbone.add_head("value")
    appraiser, found = experience(backbone, [[1.0, math.inf, 2.0, 6.0], [3.0, 1.0, 1.0, 0.0]], settings)
    assert len(found) == 7
    assert appraiser._moments.count == 7 and appraiser._moments.mean == pytest.approx(2.0)


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_such_a_reply_is_never_the_best(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, reward: float) -> None:
    rounds: list[list[float]] = []

    def remember(best: Sequence[raft.Scored], *_: object) -> list[object]:
        rounds.append([one.worth for one in best])
        return []

    monkeypatch.setattr(raft, "_batches", remember)
    judge = Flawed(5, reward)
    result = raft.train(backbone, judge, PROMPTS, TOY_RAFT.model_copy(update={"iterations": 2}), Heard())
    assert len(rounds) == 2 and all(math.isfinite(worth) for of_round in rounds for worth in of_round)
    assert result.ungraded == result.metrics["ungraded"] == -(-len(judge.graded) // 5) > 0
    assert result.replies == len(judge.graded) == 2 * 4 * 16
    assert all(math.isfinite(value) for value in result.metrics.values())


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_many_end_the_training_and_the_judge_is_named(backbone: Backbone, method: str) -> None:
    before, judge = backbone.adapter_state(), Flawed(3)
    with pytest.raises(
        TrainingFailed, match=r"The judge \(Flawed\) gave \d+ of \d+ replies no finite reward"
    ) as caught:
        if method == "ppo":
            ppo.train(backbone, judge, PROMPTS, FEW, Heard())
        else:
            raft.train(backbone, judge, PROMPTS, TOY_RAFT, Heard())
    assert "25%" in caught.value.hint
    for name, one in backbone.adapter_state().items():
        assert torch.equal(one, before[name])


def test_where_all_have_a_finite_reward_none_is_counted(backbone: Backbone) -> None:
    result = ppo.train(backbone, Counting(), PROMPTS, FEW, Heard())
    assert result.ungraded == 0 and "ungraded" not in result.metrics
