"""Reward and value: adapters of their own on the one base, with a head in the output layer's place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from learner.adapted_model import HeadRole
from learner.backbone import Backbone
from learner.batch import Sequences, collate
from tests.learner.tiny_backbone import SETTINGS
from tests.learner.tiny_model import PAD, ids

QUESTION = ids("<bos> what is the capital of france ?")
EXAMPLES = [
    (QUESTION, ids("it is paris .", end=True)),
    (QUESTION, ids("rome")),  # cut: it has no end
    (ids("<bos> one"), ids("two", end=True)),
    (QUESTION, ids("madrid is it , you dear friend", end=True)),
]


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    made = Backbone.load(folder, SETTINGS)
    made.add_head("reward", outputs=3, seed=1)
    made.add_head("value", seed=2)
    return made


def batch() -> Sequences:
    return collate(EXAMPLES, PAD)


def move(backbone: Backbone, role: HeadRole, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.trainable(role):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def head_of(backbone: Backbone, role: HeadRole) -> tuple[Tensor, Tensor]:
    state = backbone.adapter_state(role)
    return state["head.weight"], state["head.bias"]


def hidden(folder: Path, example: tuple[tuple[int, ...], tuple[int, ...]]) -> Tensor:
    """(T, H): the last hidden states of the plain model."""
    plain = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        states: Tensor = plain.model(torch.tensor([example[0] + example[1]])).last_hidden_state[0]
    return states


def padded(backbone: Backbone) -> Backbone:
    backbone._packs = False
    return backbone


def test_a_fresh_reward_is_its_head_on_the_plain_models_state_at_the_replys_last_token(
    backbone: Backbone, folder: Path
) -> None:
    weight, bias = head_of(backbone, "reward")
    rewards = backbone.rewards(batch())
    for row, example in enumerate(EXAMPLES):
        torch.testing.assert_close(rewards[row], hidden(folder, example)[-1] @ weight.T + bias, atol=1e-4, rtol=0)


def test_a_value_stands_where_each_reply_token_is_chosen_and_nothing_elsewhere(
    backbone: Backbone, folder: Path
) -> None:
    weight, bias = head_of(backbone, "value")
    values = backbone.values(batch())
    for row, (prompt, reply) in enumerate(EXAMPLES):
        states = hidden(folder, (prompt, reply))
        for place in range(values.shape[1]):
            is_reply = len(prompt) <= place < len(prompt) + len(reply)
            expected = float(states[place - 1] @ weight[0] + bias[0]) if is_reply else 0.0
            assert values[row, place].item() == pytest.approx(expected, abs=1e-4)


def test_packed_and_padded_rows_have_the_same_rewards_values_and_gradients(backbone: Backbone) -> None:
    move(backbone, "reward")
    move(backbone, "value")
    assert backbone._packs

    def everything() -> list[Tensor]:
        rewards, values = backbone.rewards(batch()), backbone.values(batch())
        (rewards.square().sum() + values.square().sum()).backward()
        parameters = [*backbone.trainable("reward"), *backbone.trainable("value")]
        gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        assert len(gradients) == len(parameters) and all(gradient.any() for gradient in gradients)
        for parameter in parameters:
            parameter.grad = None
        return [rewards.detach(), values.detach(), *gradients]

    packed = everything()
    padded(backbone)
    for one, other in zip(packed, everything(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


def test_no_role_disturbs_another(backbone: Backbone) -> None:
    before = [backbone.log_probs(batch()).detach(), backbone.log_probs(batch(), "base").detach()]
    value = backbone.values(batch()).detach()
    move(backbone, "reward")
    after = [backbone.log_probs(batch()).detach(), backbone.log_probs(batch(), "base").detach()]
    for one, other in zip([*before, value], [*after, backbone.values(batch()).detach()], strict=True):
        assert torch.equal(one, other)


def test_a_look_at_the_base_between_forward_and_backward_costs_no_gradient(backbone: Backbone) -> None:
    rewards, log_probs = backbone.rewards(batch()), backbone.log_probs(batch())
    with torch.no_grad():
        backbone.log_probs(batch(), "base")
    rewards.sum().backward()
    log_probs.sum().backward()
    for role in ("policy", "reward"):
        ups = [one.grad for one in backbone.trainable(role)]
        assert any(one is not None and one.any() for one in ups)
    assert all(one.grad is None for one in backbone.trainable("value"))


def test_a_role_is_kept_and_set_back_with_its_head(backbone: Backbone) -> None:
    kept, before = backbone.adapter_state("reward"), backbone.rewards(batch()).detach()
    move(backbone, "reward")
    assert not torch.allclose(backbone.rewards(batch()), before)
    backbone.load_adapter_state(kept, "reward")
    assert torch.equal(backbone.rewards(batch()), before)


def test_the_policys_file_holds_nothing_of_the_heads(backbone: Backbone, folder: Path) -> None:
    assert backbone.adapter_state().keys() == Backbone.load(folder, SETTINGS).adapter_state().keys()


@pytest.mark.parametrize("packs", [True, False])
def test_a_row_without_a_reply_has_no_reward(backbone: Backbone, packs: bool) -> None:
    backbone = backbone if packs else padded(backbone)
    with pytest.raises(ValueError, match="at least one token"):
        backbone.rewards(collate([*EXAMPLES, (QUESTION, ())], PAD))
