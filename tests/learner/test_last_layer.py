"""In the last layer only what is looked at goes through the feed-forward network, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from learner.backbone import Backbone
from learner.batch import collate
from learner.last_layer import last_feed_forward
from learner.packing import Packed, pack
from tests.learner.tiny_backbone import SETTINGS, moved
from tests.learner.tiny_model import PAD, build_tiny_model

EXAMPLES = [((5, 6, 7, 8), (9, 10, 1)), ((5, 6, 7, 8), (11, 1)), ((12, 13), (14, 15, 16, 1))]


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return moved(Backbone.load(build_tiny_model(tmp_path), SETTINGS))


def tokens_through(feed_forward: nn.Module, backbone: Backbone, packed: Packed, places: torch.Tensor) -> int:
    seen = list[int]()
    gate = feed_forward.get_submodule("gate_proj")
    with gate.register_forward_hook(lambda _, given, made: seen.append(given[0].shape[-2])):
        backbone._packed_states(packed, places, "policy")
    [count] = seen
    return count


def test_only_what_is_asked_for_goes_through_and_the_gradients_are_those_of_all(backbone: Backbone) -> None:
    packed = pack(collate(EXAMPLES, PAD), ends=True)
    feed_forward = backbone._last_feed_forward
    assert feed_forward is not None
    found = []
    for network in (feed_forward, None):
        backbone._last_feed_forward = network
        states = backbone._packed_states(packed, packed.scored, "policy")
        slopes = torch.autograd.grad(states.square().sum(), backbone.trainable())
        found.append((states.detach(), torch.cat([slope.flatten() for slope in slopes])))
        for places in (packed.scored, packed.ends):
            whole = packed.token_ids.shape[1]
            assert tokens_through(feed_forward, backbone, packed, places) == (len(places) if network else whole)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


class Mixing(nn.Module):
    """What a token comes to depends on others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.inner(states) + 5 * states.mean(1, keepdim=True)
        return made


class Telling(Mixing):
    """As mixtures of experts that give back how they chose, too."""

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return self.inner(states), None


@pytest.mark.parametrize("wrap", [Mixing, Telling])
def test_a_network_that_is_not_one_for_each_token_is_left_alone(wrap: type[Mixing]) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **sizes))
    feed_forward = last_feed_forward(model)
    assert feed_forward is not None and feed_forward is model.model.layers[-1].mlp
    model.model.layers[-1].mlp = wrap(feed_forward)
    assert last_feed_forward(model) is None


def test_a_model_whose_layers_have_other_names_computes_all() -> None:
    assert last_feed_forward(GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))) is None


def test_a_layer_that_runs_again_runs_whole(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    assert Backbone.load(build_tiny_model(tmp_path), settings)._last_feed_forward is None
