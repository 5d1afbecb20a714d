"""How far a token counts that an engine sampled: numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from learner.importance import token_importance
from learner.policy_losses import ppo_policy_loss, truncated_importance
from learner.sampling import Reply

MASK = torch.tensor([[False, True, True, False], [False, True, False, False]])
TRAINER = torch.tensor([[0.0, -1.0, -2.0, 0.0], [0.0, -0.5, 0.0, 0.0]])


def replies() -> list[Reply]:
    """The trainer finds the tokens as likely, three times as likely, and half as likely, as the engine did."""
    engine = ((-1.0, -2.0 - math.log(3)), (-0.5 + math.log(2),))
    return [Reply(row, tuple(range(len(own))), sum(own), True, own) for row, own in enumerate(engine)]


def test_each_token_weighs_as_much_as_the_trainer_finds_it_likelier_up_to_the_cap() -> None:
    weights, metrics = token_importance(replies(), TRAINER, MASK, cap=2.0)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1.0, 2.0, 0.0], [0.0, 0.5, 0.0, 0.0]]))
    assert metrics == {
        "importance": pytest.approx(3.5 / 3),
        "importance_capped": pytest.approx(1 / 3),
        "engine_gap": pytest.approx((math.log(3) + math.log(2)) / 3),
    }
    uncapped, _ = token_importance(replies(), TRAINER, MASK, cap=4.0)
    assert uncapped is not None and float(uncapped[0, 2]) == pytest.approx(3.0)


def test_what_the_trainer_sampled_itself_has_no_weights() -> None:
    own = [Reply(0, (1, 2), -3.0, True), Reply(1, (1,), -0.5, True)]
    assert token_importance(own, TRAINER, MASK, cap=2.0) == (None, {})


def test_the_gradient_of_a_token_is_as_large_as_its_weight_and_the_clip_still_stops_it() -> None:
    """Of an unmoved policy it is -advantage · weight / tokens; a token that went far enough has none at any weight."""
    weights, _ = token_importance(replies(), TRAINER, MASK, cap=2.0)
    advantages = torch.tensor([[0.0, 1.0, -1.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
    policy = TRAINER.clone().requires_grad_()
    loss, metrics = ppo_policy_loss(policy, TRAINER, advantages, MASK, importance=weights)
    (gradient,) = torch.autograd.grad(loss, policy)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -1 / 3, 2 / 3, 0.0], [0.0, -0.5, 0.0, 0.0]]))
    assert loss.item() == pytest.approx(-(1.0 - 2.0 + 1.5) / 3) and metrics["ratio"] == 1.0
    moved = (TRAINER + math.log(1.5) * (torch.arange(4) == 1)).requires_grad_()
    loss, _ = ppo_policy_loss(moved, TRAINER, advantages, MASK, clip=0.2, importance=weights)
    (gradient,) = torch.autograd.grad(loss, moved)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0, 2 / 3, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_below_the_cap_what_another_policy_sampled_says_the_same_on_average() -> None:
    """E over the engine of weight · advantage is E over the trainer of advantage, over a vocabulary of three."""
    trainer, engine = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    advantages = torch.tensor([1.0, -2.0, 2.0])
    weights = truncated_importance(trainer.log(), engine.log(), cap=2.0)
    assert float((engine * weights * advantages).sum()) == pytest.approx(0.5 - 0.6 + 0.4, abs=1e-6)
    assert float((engine * advantages).sum()) == pytest.approx(0.4 - 0.8 + 0.4, abs=1e-6)  # what it would be without
    capped = truncated_importance(trainer.log(), engine.log(), cap=1.0)
    assert float((engine * capped * advantages).sum()) == pytest.approx(0.4 - 0.6 + 0.4, abs=1e-6)
