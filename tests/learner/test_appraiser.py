"""What sampled replies are worth to the policy, with the settings that change it, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.methods import ppo
from learner.methods.experience import Appraiser, Experience
from learner.micro_batches import MicroBatches
from learner.sampler import InProcessSampler
from learner.sampling import Reply
from service.settings import LearnerSettings, PpoSettings
from tests.learner.progress import Heard
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import ids
from tests.learner.toy_rewards import PROMPTS, Counting

PLAIN = PpoSettings(
    advantages="grpo", replies=2, prompts=1, kl_coefficient=0.0, normalise_rewards=False, clip_rewards=None,
    whiten_advantages=False, lam=1.0, pretraining_coefficient=0.0, epochs=1, stop_kl=10.0,
)  # fmt: skip
REPLIES = [ids("yes", end=True), ids("no", end=True)]
SHORT_AND_LONG = [ids("yes", end=True), ids("no no no no", end=True)]


class Says:
    """Gives these rewards, in order."""

    def __init__(self, *rewards: float) -> None:
        self._rewards = rewards

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        return torch.tensor(self._rewards[: len(examples)])


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return moved(Backbone.load(folder, LearnerSettings(rank=4, alpha=8.0)))


def said(replies: Sequence[TokenIds]) -> list[list[Reply]]:
    return [[Reply(0, reply, -1.0, True) for reply in replies]]


def appraised(backbone: Backbone, judge: Says, replies: Sequence[TokenIds] = REPLIES, **settings: object) -> Experience:
    if not backbone.has("value"):
        backbone.add_head("value")
    return Appraiser(backbone, judge, PLAIN.model_copy(update=settings)).appraise(PROMPTS[:1], said(replies))


def test_whitened_rewards_have_variance_1_and_keep_their_mean(backbone: Backbone) -> None:
    """The tokens' rewards are 0, 3, 0 and 1: their mean is 1, their variance 2. With λ = 1 returns are their sums."""
    root = 2**-0.5
    nothing, three, one = 1 - root, 1 + 2 * root, 1.0
    whitened = appraised(backbone, Says(3.0, 1.0), advantages="gae", whiten_rewards=True)
    expected = [nothing + three, three, nothing + one, one]
    assert whitened.returns[whitened.mask].tolist() == pytest.approx(expected, abs=1e-5)
    plain = appraised(backbone, Says(3.0, 1.0), advantages="gae")
    assert plain.returns[plain.mask].tolist() == pytest.approx([3.0, 3.0, 1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize(("scale", "expected"), [(True, 0.5**0.5), (False, 1.0)])
def test_advantages_of_a_group_are_in_its_deviations_where_asked(
    backbone: Backbone, scale: bool, expected: float
) -> None:
    """Rewards of 3 and 1 have the mean 2 and the deviation √2."""
    found = appraised(backbone, Says(3.0, 1.0), grpo_scale=scale).advantages
    assert found[0].max().item() == pytest.approx(expected, abs=1e-3)
    assert found[1].min().item() == pytest.approx(-expected, abs=1e-3)


def test_kl_costs_what_the_chosen_estimate_says(backbone: Backbone) -> None:
    costs = []
    for estimator in ("k1", "k3"):
        found = appraised(
            backbone, Says(0.0, 0.0), SHORT_AND_LONG, advantages="gae", kl_coefficient=0.5, kl_estimator=estimator
        )
        first = found.mask.long().argmax(1, keepdim=True)
        costs.append(found.returns.gather(1, first).squeeze(1))
    examples = [(PROMPTS[0], reply) for reply in SHORT_AND_LONG]
    log_ratio = backbone.score(examples, "policy") - backbone.score(examples, "anchor")
    torch.testing.assert_close(costs[0], -0.5 * log_ratio, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        by_token = found.log_probs - backbone.log_probs(found.batch, "anchor")
    k3 = torch.where(found.mask, (-by_token).exp() - 1 + by_token, torch.zeros(())).sum(1)
    torch.testing.assert_close(costs[1], -0.5 * k3, atol=1e-4, rtol=1e-4)
    assert (costs[1] < 0).all()


@pytest.mark.parametrize("most", [None, 1])
@pytest.mark.parametrize("per_sequence", [True, False])
def test_replies_weigh_the_same_however_long_they_are_where_asked(
    backbone: Backbone, per_sequence: bool, most: int | None
) -> None:
    """At the first step the loss is the mean of -advantage, here of -1 and 1: over replies it is 0, over their tokens
    (2 and 5) it is 3 / 7; however many replies fit the memory at once."""
    settings = PLAIN.model_copy(update={"grpo_scale": False, "per_sequence": per_sequence})
    course = ppo._Course(backbone, Counting(), settings, 0, (), InProcessSampler(backbone))
    course._stepper._fitting["replies"] = MicroBatches("replies")
    course._stepper._fitting["replies"].most = most
    experience = appraised(backbone, Says(3.0, 1.0), SHORT_AND_LONG, grpo_scale=False)
    heard = Heard()
    course._learn(experience, False, heard)
    assert heard.steps[0][3]["policy_loss"] == pytest.approx(0.0 if per_sequence else 3 / 7, abs=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_the_entropy_bonus_has_the_gradient_of_whole_logits(backbone: Backbone, known: bool) -> None:
    if not known:
        backbone._output_layer = None
    settings = PLAIN.model_copy(update={"entropy_coefficient": 0.1})
    course = ppo._Course(backbone, Counting(), settings, 0, (), InProcessSampler(backbone))
    experience = appraised(backbone, Says(1.0, 1.0), SHORT_AND_LONG)  # no advantage: what is left is the bonus
    loss, metrics = course._policy_loss(experience, [0, 1])
    slopes = torch.autograd.grad(loss, backbone.trainable())
    logits = backbone.logits(experience.batch)[0]
    bonus = torch.distributions.Categorical(logits=logits.double()).entropy().mean()
    assert metrics["entropy"] == pytest.approx(bonus.item(), abs=1e-5)
    for one, other in zip(slopes, torch.autograd.grad(-0.1 * bonus, backbone.trainable()), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
