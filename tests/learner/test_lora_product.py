"""A linear layer with its adapter as one function computes what PEFT composes, and leaves to PEFT what is more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from learner.lora_product import fuse


def adapted(**more: Any) -> PeftModel:
    """Two layers in float64, each with an adapter that does something."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], **more)
    model = get_peft_model(base, config, adapter_name="policy").double()
    model.add_adapter("other", config)
    for name, parameter in model.double().named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model.eval()


def both(model: PeftModel, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The output and all gradients, as PEFT computes them and then fused."""
    found = []
    for _ in range(2):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        made = model(x)
        slopes = torch.autograd.grad(made.square().sum(), [x, *trained], allow_unused=True)
        found.append([made, *(slope for slope in slopes if slope is not None)])
        fuse(model)
    return found[0], found[1]


def inputs() -> Tensor:
    return torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "more", [{}, {"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}, {"lora_dropout": 0.5}]
)
def test_outputs_and_gradients_are_pefts(more: dict[str, Any]) -> None:
    as_peft_does, fused = both(adapted(**more), inputs())
    assert len(fused) >= 6  # output, x, and two matrices of each layer
    torch.testing.assert_close(fused, as_peft_does)


def test_gradients_are_the_slopes_of_the_outputs() -> None:
    model = adapted()
    fuse(model)
    layer = model.base_model.model[0]
    a, b = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
    assert type(layer(inputs()).grad_fn).__name__ == "_ProductBackward"

    def compute(x: Tensor, *_: Tensor) -> Tensor:
        made: Tensor = layer(x)
        return made

    assert torch.autograd.gradcheck(compute, (inputs(), a, b))


def test_it_follows_the_active_adapter_and_none() -> None:
    model, x = adapted(), inputs()
    expected, found = dict[str, Tensor](), dict[str, Tensor]()
    for into in (expected, found):
        for name in ("policy", "other"):
            model.set_adapter(name)
            into[name] = model(x)
        with model.disable_adapter():
            into["off"] = model(x)
        model.merge_adapter(["policy"])
        into["merged"] = model(x)
        model.unmerge_adapter()
        model.base_model.set_adapter(["policy", "other"])
        into["both"] = model(x)
        fuse(model)
    torch.testing.assert_close(found, expected)
    assert (
        len({round(made.sum().item(), 6) for made in (found[name] for name in ("policy", "other", "off", "both"))}) == 4
    )
    torch.testing.assert_close(found["merged"], found["policy"])


def test_an_adapter_in_float32_is_rounded_beside_a_base_in_half_precision() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 64, bias=False)).to(torch.bfloat16)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["0"]), adapter_name="policy")
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["policy"].weight)
    assert layer.lora_A["policy"].weight.dtype == torch.float32
    x = torch.randn(8, 64, dtype=torch.bfloat16, requires_grad=True)
    as_peft_does = model(x)
    fuse(model)
    made = model(x)
    assert made.dtype == torch.bfloat16
    assert (made - as_peft_does).abs().max() < 0.02 * as_peft_does.abs().max()
    made.sum().backward()
    assert layer.lora_A["policy"].weight.grad.dtype == torch.float32
