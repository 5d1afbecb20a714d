"""Where a step doesn't fit the memory it is taken in parts, and the gradients are those of the whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner.backbone import Backbone
from learner.methods import preference
from learner.methods.optimizer import Stepper
from learner.micro_batches import MicroBatches, is_out_of_memory
from service.errors import TrainingFailed
from tests.learner.short_trainings import METHODS, Enough
from tests.learner.tiny_backbone import SETTINGS, moved


def test_a_part_that_does_not_fit_is_halved_and_those_to_come_are_as_small(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[list[int]] = []

    def work(part: Sequence[int]) -> int:
        tried.append(list(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return sum(part)

    fitting = MicroBatches("pairs")
    with caplog.at_level(logging.WARNING, logger="hone.learner"):
        assert list(fitting.each(range(10), work)) == [
            (range(3), 3), (range(3, 6), 12), (range(6, 9), 21), (range(9, 10), 9)
        ]  # fmt: skip
    assert [len(part) for part in tried] == [10, 5, 3, 3, 3, 1] and fitting.most == 3
    assert "Out of memory with 10 pairs at once; from now on 5." in caplog.text
    tried.clear()
    assert [sum_ for _, sum_ in fitting.each([1, 2, 3, 4], work)] == [6, 4] and len(tried) == 2
    assert list(fitting.each([], work)) == []


def test_one_that_does_not_fit_alone_ends_the_training_and_other_errors_come_through() -> None:
    def full(part: Sequence[int]) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")

    with pytest.raises(TrainingFailed, match=r"one of the pairs alone .*learner.gradient_checkpointing"):
        list(MicroBatches("pairs").each([1, 2, 3], full))

    def wrong(part: Sequence[int]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(MicroBatches("pairs").each([1, 2, 3], wrong))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("can't allocate memory"))


class Failing(torch.autograd.Function):
    """Runs out of memory on the way back, where there is more than one row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        if len(gradients[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradients[0]


def test_a_backward_pass_that_fails_half_way_leaves_nothing_behind() -> None:
    def gradient(fails: bool) -> list[float]:
        weight, also = nn.Parameter(torch.tensor([0.5, -1.0])), nn.Parameter(torch.tensor([2.0]))
        stepper = Stepper([weight, also], 0.1)

        def loss(rows: Sequence[list[float]]) -> tuple[Tensor, dict[str, float]]:
            made = torch.tensor(rows) * weight
            made = Failing.apply(made) if fails else made  # type: ignore[no-untyped-call]  # torch leaves it so
            value = (made.sum(1).square() * also).mean()
            return value, {"value": value.item(), **({"long": 1.0} if len(rows[0]) > 2 else {})}

        metrics = stepper.add("rows", [[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]], loss, factor=3.0)
        assert metrics == pytest.approx({"value": 2 * (1.5**2 + 2.5**2 + 4.5**2) / 3})
        assert weight.grad is not None and also.grad is not None
        found = [*weight.grad.tolist(), *also.grad.tolist()]
        assert stepper.update()["loss"] == pytest.approx(3 * metrics["value"])
        return found

    assert gradient(fails=True) == pytest.approx(gradient(fails=False), rel=1e-6)


def test_a_part_without_a_finite_loss_spoils_the_step() -> None:
    weight = nn.Parameter(torch.ones(1))
    stepper = Stepper([weight], 0.1)
    stepper.add("good", [1.0], lambda part: (weight.sum(), {}))
    stepper.add("bad", [float("nan")], lambda part: (weight.sum() * part[0], {}))
    assert stepper.update()["skipped"] == 1 and weight.tolist() == [1.0]
    stepper.add("good", [1.0], lambda part: (weight.sum(), {}))
    assert stepper.update()["loss"] == 1.0 and weight.item() < 1


Train = Callable[[Backbone], object]


def gradients(folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch, tokens: int, updates: int) -> list[Tensor]:
    """Of so many updates, none of which is carried out: the next would differ by more, as Adam divides by the size of
    small gradients. A forward pass over more `tokens` than that has no memory, but where replies are sampled."""
    backbone, found, refused = moved(Backbone.load(folder, SETTINGS)), list[Tensor](), 0

    def recorded(self: Stepper, scale: float = 1.0) -> dict[str, float]:
        found.append(torch.cat([torch.zeros(0) if p.grad is None else p.grad.flatten() for p in self._parameters]))
        if len(found) == updates:
            raise Enough
        for parameter in self._parameters:
            parameter.grad = None
        return {}

    def refuse(_: nn.Module, __: tuple[object, ...], given: dict[str, Any]) -> None:
        nonlocal refused
        if given.get("past_key_values") is None and given["input_ids"].numel() > tokens:
            refused += torch.is_grad_enabled()
            raise torch.OutOfMemoryError("CUDA out of memory.")

    backbone.model.get_base_model().get_decoder().register_forward_pre_hook(refuse, with_kwargs=True)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "update", recorded)
        with pytest.raises(Enough):
            train(backbone)
    assert bool(refused) == (tokens < 1 << 20)
    return found


@pytest.mark.parametrize(
    ("method", "tokens"),
    [("sft", 60), ("dpo", 90), ("pairs_dpo", 30), ("kto", 30), ("reward", 50), ("ppo", 40), ("raft", 14),
     ("sl-cai", 20), ("rl-cai", 30)],
)  # fmt: skip
def test_no_method_s_gradients_depend_on_how_much_fits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str, tokens: int
) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 12)
    monkeypatch.setattr(preference, "PAIRS_PER_STEP", 4)
    train, updates = METHODS[method], 3 if method == "ppo" else 2
    whole = gradients(folder, train, monkeypatch, 1 << 20, updates)
    parts = gradients(folder, train, monkeypatch, tokens, updates)
    for one, other in zip(parts, whole, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(one, other, atol=1e-6 * max(1.0, float(other.abs().max())), rtol=1e-4)
