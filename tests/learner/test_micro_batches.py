"""Where a step doesn't fit the memory it is taken in parts, and the gradients are those of the whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair
from learner.methods import kto, ppo, preference, raft, reward, sft
from learner.methods.optimizer import Stepper
from learner.micro_batches import MicroBatches, is_out_of_memory
from service.errors import TrainingFailed
from service.settings import LearnerSettings, PpoSettings, RaftSettings
from tests.learner.test_backbone import moved
from tests.learner.test_raft import Counting
from tests.learner.test_reward import asked, comparisons, said
from tests.learner.test_sft import Heard
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=4, alpha=8.0)
PROMPTS = [ids(f"<bos> {a} {b} ?") for a in ("one", "two", "three", "four") for b in ("blue", "red", "green", "paris")]
REPLIES = [ids(words, end=True) for words in ("yes", "no , it is perhaps no .", "it is paris .", "perhaps")]


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


class Enough(Exception):
    """Ends a training whose first steps were all that is wanted."""


Train = Callable[[Backbone], object]


def gradients(folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch, tokens: int, updates: int) -> list[Tensor]:
    """Of so many updates, none of which is carried out: the next would differ by more, as Adam divides by the size of
    small gradients. A forward pass over more `tokens` than that, with gradients, has no memory."""
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
        if torch.is_grad_enabled() and given["input_ids"].numel() > tokens:
            refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    backbone.model.get_base_model().get_decoder().register_forward_pre_hook(refuse, with_kwargs=True)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "update", recorded)
        with pytest.raises(Enough):
            train(backbone)
    assert bool(refused) == (tokens < 1 << 20)
    return found


def by_sft(backbone: Backbone) -> None:
    taught = [
        Demonstration(prompt, REPLIES[place % 4], weight=1.0 + place / 8) for place, prompt in enumerate(PROMPTS[:12])
    ]
    sft.train(backbone, taught, PROMPTS[12:], SETTINGS, Heard())


def by_dpo(backbone: Backbone) -> None:
    pairs = [
        Pair(prompt, one, other, margin=1.0 + place, tie=place == 2, weight=1 / 3 + place)
        for place, (prompt, one, other) in enumerate(zip(PROMPTS[:4], REPLIES, REPLIES[1:] + REPLIES[:1], strict=True))
    ]
    preference.train(backbone, pairs, PROMPTS, SETTINGS, Heard())


def by_kto(backbone: Backbone) -> None:
    labels = [
        Label(prompt, REPLIES[place % 4], place % 3 == 0, weight=1 / 3 + place) for place, prompt in enumerate(PROMPTS)
    ]
    kto.train(backbone, labels, PROMPTS, SETTINGS, Heard())


def by_reward(backbone: Backbone) -> None:
    rng = Random(3)
    replies = [said(colour, rng) for colour in ("red", "blue", "green", "red")]
    ranking = [
        Pair(asked(70), replies[a], replies[b], margin=1.0 + b, group="ranking", weight=1 / 3)
        for a in range(4)
        for b in range(a + 1, 4)
    ]
    single = [Pair(asked(80), replies[0], replies[1], tie=True), *(replace(p, weight=0.7) for p in comparisons(3))]
    labels = [Label(asked(90 + n), said("green", rng), n % 2 == 0, weight=0.5 + n) for n in range(5)]
    reward.fit(backbone, [*ranking, *single], labels, SETTINGS, Heard())


def by_ppo(backbone: Backbone) -> None:
    settings = PpoSettings(iterations=1, prompts=4, replies=3, minibatch=8, max_new_tokens=8, stop_kl=10.0)
    kept = [(prompt, REPLIES[place % 4]) for place, prompt in enumerate(PROMPTS)]
    ppo.train(backbone, Counting(), PROMPTS, settings, Heard(), pretraining=kept)


def by_raft(backbone: Backbone) -> None:
    settings = RaftSettings(iterations=1, prompts=16, replies=8, minibatch=16, max_new_tokens=8)
    raft.train(backbone, Counting(), PROMPTS, settings, Heard())


@pytest.mark.parametrize(
    ("train", "tokens", "updates"),
    [(by_sft, 60, 2), (by_dpo, 90, 2), (by_kto, 30, 2), (by_reward, 50, 2), (by_ppo, 40, 3), (by_raft, 14, 2)],
)
def test_no_method_s_gradients_depend_on_how_much_fits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, train: Train, tokens: int, updates: int
) -> None:
    monkeypatch.setattr("learner.methods.rollouts.MAX_NEW_TOKENS", 12)
    monkeypatch.setattr(preference, "PAIRS_PER_STEP", 4)
    monkeypatch.setattr(ppo, "VALUE_WARMUP", 0)
    whole = gradients(folder, train, monkeypatch, 1 << 20, updates)
    parts = gradients(folder, train, monkeypatch, tokens, updates)
    for one, other in zip(parts, whole, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(one, other, atol=1e-6 * max(1.0, float(other.abs().max())), rtol=1e-4)
