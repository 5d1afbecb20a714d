"""AdamW keeps its moments where they belong, and goes on from a copy of them as if it had never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.optim import PagedAdamW32bit
from torch import Tensor, nn

from learner.backbone import Backbone
from learner.methods import adamw
from learner.methods.adamw import make_adamw, moments, moments_in, set_moments
from learner.methods.optimizer import Stepper
from learner.stage_checkpoint import StageCheckpoint
from service.settings import LearnerSettings
from tests.learner.short_trainings import METHODS, Enough
from tests.learner.stepping import take_step
from tests.learner.tiny_backbone import SETTINGS
from tests.learner.tiny_model import build_tiny_model

NO_PAGES = "ignore:Paged optimizers are not supported on CPU"


@pytest.mark.parametrize(
    ("device", "in_4_bits", "installed", "where"),
    [
        ("cuda", True, True, "pages"),
        ("cuda", True, False, "memory"),
        ("cuda", False, True, "memory"),
        ("cpu", True, True, "memory"),
        ("mps", True, True, "memory"),
    ],
)
def test_moments_are_in_pages_on_a_gpu_under_a_base_in_4_bits(
    device: str, in_4_bits: bool, installed: bool, where: str
) -> None:
    assert moments_in(device, in_4_bits, installed) == where


def parameters(seed: int = 0) -> list[nn.Parameter]:
    """The last is never moved."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), (2, 2))]


def optimizer(own: list[nn.Parameter], paged: bool, monkeypatch: pytest.MonkeyPatch) -> torch.optim.Optimizer:
    """As made for a GPU and a base in 4 bits, or for what is here."""
    with monkeypatch.context() as patch:
        if paged:
            patch.setattr(adamw, "moments_in", lambda *_: "pages")
        made = make_adamw(own, 0.05)
    assert type(made) is (PagedAdamW32bit if paged else torch.optim.AdamW)
    return made


def step(made: torch.optim.Optimizer, own: list[nn.Parameter], number: int) -> None:
    for place, parameter in enumerate(own[:2]):
        parameter.grad = torch.cos(torch.arange(parameter.numel()) + number + place).reshape(parameter.shape)
    made.step()


def values(own: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in own]


@pytest.mark.filterwarnings(NO_PAGES)
@pytest.mark.parametrize("paged", [False, True])
def test_an_optimizer_goes_on_from_a_copy_bit_for_bit(
    paged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = parameters()
    made = optimizer(own, paged, monkeypatch)
    for number in range(3):
        step(made, own, number)
    kept = moments(made)
    assert kept.keys() == {"0", "1"}
    StageCheckpoint(tmp_path / "it").keep("course", lambda: {"moments": kept, "parameters": values(own)})
    for number in range(3, 6):
        step(made, own, number)  # which the copy doesn't see
    part = StageCheckpoint(tmp_path / "it").part("course")
    others = [nn.Parameter(value) for value in part["parameters"]]
    again = optimizer(others, paged, monkeypatch)
    set_moments(again, part["moments"])
    for number in range(3, 6):
        step(again, others, number)
    for one, other in zip(values(others), values(own), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings(NO_PAGES)
def test_a_step_with_pages_is_one_of_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for paged in (False, True):
        own = parameters()
        made = optimizer(own, paged, monkeypatch)
        for number in range(8):
            step(made, own, number)
        found.append(values(own))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings(NO_PAGES)
def test_moments_go_back_into_the_pages_that_were_made_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes' own way would leave them in the GPU's memory, where pages are to spare it."""
    own, made_for = parameters(), list[int]()
    made = optimizer(own, True, monkeypatch)
    step(made, own, 0)
    buffer = PagedAdamW32bit.get_state_buffer

    def page(self: PagedAdamW32bit, parameter: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        made_page: Tensor = buffer(self, parameter, dtype)
        made_page.is_paged = True  # type: ignore[attr-defined]  # as bitsandbytes marks them
        made_for.append(parameter.numel())
        return made_page

    monkeypatch.setattr(PagedAdamW32bit, "get_state_buffer", page)
    others = parameters()
    again = optimizer(others, True, monkeypatch)
    set_moments(again, moments(made))
    assert made_for == [12, 12, 5, 5]
    for parameter, other in zip(own[:2], others[:2], strict=True):
        for name in ("state1", "state2"):
            assert torch.equal(again.state[other][name], made.state[parameter][name])
            assert again.state[other][name].is_paged


def test_a_stepper_goes_on_with_its_warm_up_and_what_it_skipped() -> None:
    own = parameters()
    stepper = Stepper(own, 0.1, warmup=4)
    for factor in (1.0, float("nan"), 2.0):
        take_step(stepper, factor * own[0].square().sum())
    others = [nn.Parameter(value) for value in values(own)]
    again = Stepper(others, 0.1, warmup=4)
    again.load_state(
        json.loads(json.dumps(stepper.state() | {"moments": {}})) | {"moments": stepper.state()["moments"]}
    )
    for factor in (1.0, float("nan")):
        one = take_step(stepper, factor * own[0].square().sum())
        other = take_step(again, factor * others[0].square().sum())
        assert one == pytest.approx(other, nan_ok=True, abs=0)
    assert again.skipped == 2 and one["learning_rate"] == 0.1
    assert torch.equal(own[0], others[0])


@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_a_backbone_says_whether_its_base_is_in_4_bits(tmp_path: Path, quantise: str) -> None:
    settings = LearnerSettings.model_validate({"rank": 2, "alpha": 4.0, "quantise": quantise})
    backbone = Backbone.load(build_tiny_model(tmp_path, width=64), settings)
    assert backbone.in_4_bits == (quantise == "nf4")


def test_every_method_says_what_its_base_is_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = list[bool]()

    def remember(own: list[nn.Parameter], rate: float, *, in_4_bits: bool = False) -> torch.optim.Optimizer:
        said.append(in_4_bits)
        raise Enough

    monkeypatch.setattr("learner.methods.optimizer.make_adamw", remember)
    monkeypatch.setattr(Backbone, "in_4_bits", True)
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 4)
    model = build_tiny_model(tmp_path)
    for train in METHODS.values():
        with pytest.raises(Enough):
            train(Backbone.load(model, SETTINGS))
    assert said == [True] * len(METHODS)
