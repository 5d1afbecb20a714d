"""Training against a base in NF4: real weights in 4 bits, gradients through them, and the same figures every time."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from learner.backbone import Backbone
from learner.batch import Demonstration, collate
from learner.methods import sft
from learner.nf4 import load_nf4, quantised_layers, round_trip
from service.errors import TrainingFailed
from service.settings import SPROUT, LearnerSettings
from tests.learner.tiny_model import PAD, build_tiny_model, ids

CPU = torch.device("cpu")
SETTINGS = LearnerSettings(rank=4, alpha=8.0, quantise="nf4", sft_epochs=8, sft_learning_rate=1e-2)
ASKED, RIGHT = ids("<bos> what is the capital of france ?"), ids("it is paris .", end=True)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), width=64)


def layers(model: torch.nn.Module) -> dict[str, Linear4bit]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


@pytest.mark.parametrize("model", ["tiny", "sprout"])
def test_every_linear_layer_but_the_output_is_in_four_bits(model: str, model_folder: Path) -> None:
    folder = SPROUT if model == "sprout" else model_folder
    loaded = load_nf4(folder, CPU)
    found = layers(loaded)
    assert quantised_layers(folder) == dict.fromkeys(found, False)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    linear = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    assert found.keys() == linear - {"lm_head"}
    for name, layer in found.items():
        weight = plain.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        assert layer.weight.dtype == torch.uint8 and layer.weight.numel() == -(-weight.numel() // 2)
        given_back = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert torch.equal(given_back, round_trip(weight.data)) and given_back.dtype == torch.bfloat16
        error = (given_back - weight).float().norm() / weight.float().norm()
        assert 0.05 < error < 0.12  # what 16 levels cost a normal distribution is 9 %
    others = {name: p for name, p in loaded.named_parameters() if p.dtype != torch.uint8}
    for name, parameter in others.items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, plain.get_parameter(name).float())


def test_layers_that_keep_their_weight_transposed_are_told(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=64, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert quantised_layers(tmp_path) == dict.fromkeys(layers(load_nf4(tmp_path, CPU)), True) != {}


def test_what_was_scored_before_does_not_change_what_is_trained_after(model_folder: Path) -> None:
    """It would with bitsandbytes' own layers, where the processor has AVX512-BF16: see `ExactLinear4bit`."""
    batch = collate([(ASKED, RIGHT)], PAD)
    fresh, used = (Backbone.load(model_folder, SETTINGS) for _ in range(2))
    first = used.score([(ASKED, RIGHT)], "policy")
    gradients = []
    for backbone in (fresh, used):
        loss = -backbone.reply_log_probs(batch).sum()
        loss.backward()
        gradients.append({name: p.grad for name, p in backbone.model.named_parameters() if p.grad is not None})
        torch.testing.assert_close(-loss.detach().reshape(1).cpu(), first)
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    reached = [name for name, gradient in gradients[1].items() if "layers.0" in name and gradient.abs().sum() > 0]
    assert reached  # through the layer above, which is in NF4


def test_a_layer_multiplies_with_what_nf4_gives_back(model_folder: Path) -> None:
    model = load_nf4(model_folder, CPU)
    inputs = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    for name, layer in layers(model).items():
        if layer.in_features == 64:
            expected = functional.linear(inputs, round_trip(_plain(model_folder, name)).float())
            with torch.no_grad():
                torch.testing.assert_close(layer(inputs), expected)


def _plain(folder: Path, name: str) -> torch.Tensor:
    weight = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).get_submodule(name).weight
    assert isinstance(weight, torch.nn.Parameter)
    return weight.data


def test_an_adapter_learns_against_it_and_leaves_the_base_alone(model_folder: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(model_folder, SETTINGS)
    before = {name: layer.weight.data.clone() for name, layer in layers(backbone.model).items()}
    base, policy = (backbone.score([(ASKED, RIGHT)], role).item() for role in ("base", "policy"))
    assert policy == pytest.approx(base, abs=1e-4)

    def progress(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None: ...

    lesson = Demonstration(ASKED, RIGHT, "c", "fb")
    sft.train(backbone, (lesson,), (ids("<bos> one"),), SETTINGS, progress)
    assert backbone.score([(ASKED, RIGHT)], "policy").item() > base + 1.0
    assert backbone.score([(ASKED, RIGHT)], "base").item() == pytest.approx(base, abs=1e-4)
    for name, layer in layers(backbone.model).items():
        assert torch.equal(layer.weight.data, before[name])
    with backbone.merged("policy"):
        pass  # nothing is folded into weights of 4 bits
    backbone.save_adapter(tmp_path / "v1")
    child = Backbone.load(model_folder, SETTINGS, parent=tmp_path / "v1")
    torch.testing.assert_close(child.score([(ASKED, RIGHT)], "parent"), backbone.score([(ASKED, RIGHT)], "policy"))


def test_rows_that_bitsandbytes_does_not_give_back_are_refused(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path, width=32)
    for refused in (lambda: Backbone.load(folder, SETTINGS, device="cpu"), lambda: quantised_layers(folder)):
        with pytest.raises(TrainingFailed, match=r"rows of 32 weights.*multiples of 64"):
            refused()


def test_without_bitsandbytes_it_says_what_to_install(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    monkeypatch.delitem(sys.modules, "learner.nf4")
    with pytest.raises(TrainingFailed, match=r"pip install '\.\[nf4\]'"):
        Backbone.load(model_folder, SETTINGS)


def test_a_base_that_is_not_there_is_a_failed_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="can't be loaded"):
        Backbone.load(tmp_path / "nowhere", SETTINGS)
