"""Log-probabilities a few positions at a time are those of whole logits, and so are their gradients."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner import output_layer
from learner.backbone import Backbone
from learner.batch import Sequences, collate
from learner.methods.retention import Retention, retained
from learner.output_layer import log_probs_and_entropies_in_chunks, log_probs_in_chunks, plain_output_layer
from learner.policy_losses import entropy
from learner.tensors import token_log_probs
from tests.learner.log_probabilities import EXAMPLES, graded, padded_log_probs
from tests.learner.small_models import VOCABULARY, small
from tests.learner.tiny_backbone import SETTINGS, moved
from tests.learner.tiny_model import PAD


@pytest.mark.parametrize("positions", [12, 1, 0])
@pytest.mark.parametrize("rows", [1, 4, 5, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_any_chunks_give_what_whole_logits_give(
    monkeypatch: pytest.MonkeyPatch, positions: int, rows: int, bias: bool
) -> None:
    torch.manual_seed(positions)
    layer = nn.Linear(6, 9, bias=bias).requires_grad_(False)
    states = torch.randn(positions, 6, requires_grad=True)
    token_ids = torch.randint(9, (positions,))
    monkeypatch.setattr(output_layer, "AT_ONCE", 9 * rows + 1)
    expected = graded(token_log_probs(layer(states), token_ids), [states])
    found = graded(log_probs_in_chunks(states, token_ids, layer), [states])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(log_probs_in_chunks(states, token_ids, layer), expected[0], atol=1e-6, rtol=1e-5)


MIXED = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.3)]
"""Weights of log-probabilities and of entropies."""


@pytest.mark.parametrize("positions", [12, 1, 0])
@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sharp", [1.0, 40.0])
def test_entropies_in_chunks_are_those_of_float64(
    monkeypatch: pytest.MonkeyPatch, positions: int, rows: int, bias: bool, sharp: float
) -> None:
    """Against torch.distributions on whole logits, differentiated by torch; also where one token has most odds."""
    torch.manual_seed(positions)
    layer = nn.Linear(6, 9, bias=bias).requires_grad_(False)
    states = (sharp * torch.randn(positions, 6)).requires_grad_()
    token_ids = torch.randint(9, (positions,))
    monkeypatch.setattr(output_layer, "AT_ONCE", 9 * rows + 1)
    found = []
    for weight, weight_of_entropies in MIXED:
        log_probs, entropies = log_probs_and_entropies_in_chunks(states, token_ids, layer)
        found.append(graded(weight * log_probs + weight_of_entropies * entropies, [states]))
    with torch.no_grad():
        again = log_probs_and_entropies_in_chunks(states, token_ids, layer)
    assert torch.equal(again[0], log_probs) and torch.equal(again[1], entropies)

    exact, exactly = layer.double(), states.detach().double().requires_grad_()
    for one, (weight, weight_of_entropies) in zip(found, MIXED, strict=True):
        spread = torch.distributions.Categorical(logits=exact(exactly))
        expected = weight * spread.log_prob(token_ids) + weight_of_entropies * spread.entropy()
        for ours, theirs in zip(one, graded(expected, [exactly]), strict=True):
            torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def test_a_token_that_is_ruled_out_adds_no_entropy() -> None:
    layer = nn.Linear(2, 4).requires_grad_(False)
    layer.bias[1] = -torch.inf
    states = torch.randn(3, 2, requires_grad=True)
    _, entropies = log_probs_and_entropies_in_chunks(states, torch.tensor([0, 2, 3]), layer)
    (slopes,) = torch.autograd.grad(entropies.sum(), states)
    assert slopes.isfinite().all()
    torch.testing.assert_close(entropies, entropy(layer(states)))


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("positions", [1, 2, 5])
def test_a_backbone_says_the_same_in_chunks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, packs: bool, positions: int
) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    assert backbone._packs and backbone._output_layer is not None
    backbone._packs = packs
    batch, found = collate(EXAMPLES, PAD), []
    for most in (1 << 24, positions * VOCABULARY):
        monkeypatch.setattr(output_layer, "AT_ONCE", most)
        of_tokens = graded(backbone.log_probs(batch), list(backbone.trainable()))
        of_replies = graded(backbone.reply_log_probs(batch), list(backbone.trainable()))
        found.append([*of_tokens, *of_replies, backbone.score(EXAMPLES, "policy"), backbone.score(EXAMPLES, "base")])
    torch.testing.assert_close(found[0][0], padded_log_probs(backbone, batch).detach(), atol=1e-5, rtol=1e-5)
    for one, other in zip(*found, strict=True):  # gradients reach 84, and float32 rounds sums of such
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("packs", [True, False])
def test_no_more_logits_than_that_are_ever_there(folder: Path, monkeypatch: pytest.MonkeyPatch, packs: bool) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    backbone._packs = packs
    monkeypatch.setattr(output_layer, "AT_ONCE", 3 * VOCABULARY)
    assert backbone._output_layer is not None
    made: list[torch.Size] = []
    backbone._output_layer.register_forward_hook(lambda _, given, output: made.append(output.shape))
    backbone.log_probs(collate(EXAMPLES, PAD)).sum().backward()
    assert made == [(3, VOCABULARY), (3, VOCABULARY), (3, VOCABULARY), (1, VOCABULARY)]
    made.clear()
    log_probs, entropies = backbone.predictions(collate(EXAMPLES, PAD)).log_probs_and_entropies()
    (log_probs + entropies).sum().backward()
    assert made == [(3, VOCABULARY), (3, VOCABULARY), (3, VOCABULARY), (1, VOCABULARY)]
    made.clear()
    backbone.score(EXAMPLES[:1], "anchor")
    assert made == [(3, VOCABULARY), (2, VOCABULARY)]
    made.clear()
    kept = retained(backbone, EXAMPLES[:3])
    assert made == [(3, VOCABULARY), (3, VOCABULARY), (3, VOCABULARY), (1, VOCABULARY)]
    made.clear()
    Retention(backbone, kept, Random(0)).loss(kept)[0].backward()
    assert made == [(3, VOCABULARY), (3, VOCABULARY), (3, VOCABULARY), (1, VOCABULARY)]


def test_a_batch_without_a_reply_scores_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "AT_ONCE", 0)
    backbone = Backbone.load(folder, SETTINGS)
    assert backbone.log_probs(collate(EXAMPLES[3:], PAD)).abs().sum().item() == 0
    assert backbone.reply_log_probs(collate(EXAMPLES[3:], PAD)).tolist() == [0.0]


def test_what_models_do_to_states_and_logits_is_seen() -> None:
    other_names = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
    )
    for plain in (
        small(Qwen3ForCausalLM, Qwen3Config, head_dim=8),
        small(Gemma2ForCausalLM, Gemma2Config, head_dim=8, final_logit_softcapping=None),
        other_names.eval().requires_grad_(False),
    ):
        assert plain_output_layer(plain) is plain.get_output_embeddings()
    assert plain_output_layer(small(Gemma2ForCausalLM, Gemma2Config, head_dim=8)) is None  # capped at 30
    assert plain_output_layer(small(GraniteForCausalLM, GraniteConfig, logits_scaling=8.0)) is None
    assert plain_output_layer(small(CohereForCausalLM, CohereConfig)) is None


def test_an_output_layer_that_trains_or_has_an_adapter_is_left_to_the_model() -> None:
    training = small(Qwen3ForCausalLM, Qwen3Config, head_dim=8).requires_grad_(True)
    assert plain_output_layer(training) is None
    model = small(Qwen3ForCausalLM, Qwen3Config, head_dim=8)
    adapted = get_peft_model(model, LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    assert plain_output_layer(adapted.get_base_model()) is None


def test_a_model_with_a_soft_cap_is_scored_as_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(Gemma2ForCausalLM, Gemma2Config, head_dim=8, final_logit_softcapping=2.0)
    batch: Sequences = collate(EXAMPLES, PAD)
    expected = model(input_ids=batch.token_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    expected = token_log_probs(expected, batch.token_ids[:, 1:]) * batch.reply_mask[:, 1:]
    monkeypatch.setattr(output_layer, "AT_ONCE", VOCABULARY)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    backbone = Backbone(get_peft_model(model, config, adapter_name="policy"), None, frozenset())
    torch.testing.assert_close(backbone.log_probs(batch)[:, 1:].detach(), expected, atol=1e-5, rtol=1e-5)
