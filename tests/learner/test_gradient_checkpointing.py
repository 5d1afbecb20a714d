"""Layers that run again in the backward pass give the same gradients in every role, from less memory."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM

from learner.backbone import Backbone
from learner.batch import collate
from learner.gradient_checkpointing import checkpoint_layers
from learner.sampling import sample
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.small_models import SIZES
from tests.learner.tiny_backbone import EXAMPLES, SETTINGS, moved
from tests.learner.tiny_model import PAD

CHECKPOINTED = SETTINGS.model_copy(update={"gradient_checkpointing": True})


def loaded(folder: Path, settings: LearnerSettings, packs: bool = True) -> Backbone:
    backbone = moved(Backbone.load(folder, settings))
    backbone._packs = packs
    for number, role in enumerate(("reward", "value")):
        backbone.add_head(role)  # type: ignore[arg-type]  # one of two literals
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in backbone.trainable(role):  # type: ignore[arg-type]  # as above
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return backbone


def loss(backbone: Backbone) -> Tensor:
    """Of all roles that train together: they are differentiated when none but the policy is active."""
    batch = collate(EXAMPLES, PAD)
    return backbone.log_probs(batch).sum() + backbone.rewards(batch).sum() + backbone.values(batch).square().sum()


@pytest.mark.parametrize("packs", [True, False])
def test_gradients_are_the_same_in_every_role(folder: Path, packs: bool) -> None:
    found = []
    for settings in (SETTINGS, CHECKPOINTED):
        backbone = loaded(folder, settings, packs)
        parameters = [*backbone.trainable(), *backbone.trainable("reward"), *backbone.trainable("value")]
        value = loss(backbone)
        first = torch.autograd.grad(value, parameters, retain_graph=True)
        found.append([value.detach(), *first, *torch.autograd.grad(value, parameters)])
        torch.testing.assert_close(backbone.score(EXAMPLES, "policy"), backbone.reply_log_probs(collate(EXAMPLES, PAD)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)  # products of fewer rows may round otherwise


def test_what_is_kept_for_the_backward_pass_is_a_fraction(folder: Path) -> None:
    kept = []
    for settings in (SETTINGS, CHECKPOINTED):
        backbone, sizes = loaded(folder, settings), list[int]()

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            backbone.rewards(collate(EXAMPLES, PAD))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_sampling_is_as_it_was(folder: Path) -> None:
    prompts = [prompt for prompt, _ in EXAMPLES]
    plain, checkpointed = (
        sample(loaded(folder, settings), prompts, per_prompt=4, max_new_tokens=8, seed=3)
        for settings in (SETTINGS, CHECKPOINTED)
    )
    assert [[reply.token_ids for reply in row] for row in plain] == [
        [reply.token_ids for reply in row] for row in checkpointed
    ]


def test_a_model_whose_layers_are_not_known_is_refused() -> None:
    with pytest.raises(TrainingFailed, match="gradient_checkpointing to false"):
        checkpoint_layers(torch.nn.Linear(2, 2), lambda: nullcontext)


def test_a_padded_model_that_caps_its_logits_has_the_same_gradients(folder: Path, tmp_path: Path) -> None:
    """Its layers must not see a cache that they have written to already when they run again."""
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0))
    model.save_pretrained(tmp_path)
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    found = []
    for settings in (SETTINGS, CHECKPOINTED):
        backbone = moved(Backbone.load(tmp_path, settings))
        assert not backbone._packs
        found.append(torch.autograd.grad(backbone.log_probs(collate(EXAMPLES, PAD)).sum(), backbone.trainable()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)  # products of fewer rows may round otherwise
