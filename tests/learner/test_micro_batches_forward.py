"""What doesn't fit the memory in a forward pass is computed in parts, wherever a run has one, and is the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Demonstration, Snapshot
from learner.engine_sampler import EngineSampler
from learner.evaluate.divergence import kl_of_replies
from learner.methods.preference_model import HIDDEN, describe
from learner.methods.retention import retained
from learner.probes import choose_probes
from learner.sampling import sample
from service.errors import TrainingFailed
from tests.learner.engine_sampling import engines, replies
from tests.learner.pretend_engine import PretendEngine
from tests.learner.short_trainings import KEPT, PROMPTS
from tests.learner.tiny_backbone import SETTINGS, moved


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return moved(Backbone.load(folder, SETTINGS))


@contextmanager
def memory_for(backbone: Backbone, tokens: int) -> Iterator[list[int]]:
    """A forward pass over more of them has no memory; hears how many each had that was refused."""
    refused = list[int]()

    def look(_: nn.Module, __: tuple[object, ...], given: dict[str, Any]) -> None:
        if given["input_ids"].numel() > tokens:
            refused.append(given["input_ids"].numel())
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    handle = backbone.model.get_base_model().get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield refused
    finally:
        handle.remove()


def described(backbone: Backbone) -> Tensor:
    hidden = describe(backbone, KEPT).hidden
    return torch.stack([hidden[name] for name in HIDDEN])


def what_is_kept(backbone: Backbone) -> Tensor:
    """The distributions, token by token of the vocabulary."""
    found = retained(backbone, KEPT)
    assert [(one.prompt, one.reply) for one in found] == KEPT
    return torch.cat([one.top.gather(1, one.top_ids.argsort(1)) for one in found])


def probed(backbone: Backbone) -> Tensor:
    taught = tuple(Demonstration(*example) for example in KEPT)
    probes = choose_probes(backbone, Snapshot(demonstrations=taught), 64)
    assert len(probes) == 4
    return torch.tensor([x for one in probes for name in ("token_ids", "logprobs", "base_logprobs") for x in one[name]])


def scored(role: Role) -> Callable[[Backbone], Tensor]:
    return lambda backbone: backbone.score(KEPT, role)


def diverged(backbone: Backbone) -> Tensor:
    return kl_of_replies(backbone, KEPT, "base")


PASSES = [described, what_is_kept, probed, scored("policy"), scored("base"), diverged]


@pytest.mark.parametrize("compute", PASSES)
def test_what_is_computed_does_not_depend_on_how_much_fits(
    backbone: Backbone, caplog: pytest.LogCaptureFixture, compute: Callable[[Backbone], Tensor]
) -> None:
    expected = compute(backbone)
    with memory_for(backbone, 40) as refused, caplog.at_level(logging.WARNING, logger="hone.learner"):
        found = compute(backbone)
        before = list(refused)
        again = compute(backbone)
    assert before and refused == before  # what was found out is not forgotten
    assert caplog.text.count("Out of memory with ") == len(before)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, found)


@pytest.mark.parametrize("compute", PASSES)
def test_one_that_does_not_fit_alone_is_a_clear_message(
    backbone: Backbone, compute: Callable[[Backbone], Tensor]
) -> None:
    with (
        memory_for(backbone, 2),
        pytest.raises(TrainingFailed, match=r"isn't enough memory for one of the .* alone .*train with more memory"),
    ):
        compute(backbone)
    assert compute(backbone).isfinite().all()  # once there is memory


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_an_engine_s_replies_are_checked_in_parts(
    folder: Path, tmp_path: Path, backbone: Backbone, drift: float
) -> None:
    engine = PretendEngine(moved(Backbone.load(folder, SETTINGS)), drift=drift)  # with the memory that it needs
    sampler = EngineSampler(backbone, engines(tmp_path, engine), "run_7")
    with memory_for(backbone, 40) as refused:
        if drift:
            with pytest.raises(TrainingFailed, match=r"differ from the trainer's by 1\.000 nats per token"):
                replies(sampler)
        else:
            assert all(len(row) == 3 for row in replies(sampler))
    assert refused


def weights(backbone: Backbone) -> dict[str, Tensor]:
    return {name: parameter.clone() for name, parameter in backbone.model.named_parameters()}


class NoMemory:
    """Has no memory for the deltas of a LoRA layer but for the first few; counts those that it refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
        self.left, self.refused, compute = first, 0, Linear.get_delta_weight

        def get_delta_weight(layer: Any, adapter: str) -> Any:
            if not self.left:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.left -= 1
            return compute(layer, adapter)

        monkeypatch.setattr(Linear, "get_delta_weight", get_delta_weight)


def test_without_memory_to_merge_the_adapter_sampling_goes_on_beside_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = weights(backbone)
    expected = sample(backbone, PROMPTS, temperature=0.0, max_new_tokens=12)
    assert expected != sample(backbone, PROMPTS, role="base", temperature=0.0, max_new_tokens=12)
    memory = NoMemory(monkeypatch, first=3)  # some layers are merged by then
    with caplog.at_level(logging.WARNING, logger="hone.learner"):
        found = [sample(backbone, PROMPTS, temperature=0.0, max_new_tokens=12) for _ in range(2)]
    assert memory.refused == 1 and caplog.text.count("Out of memory for a copy of the base's weights") == 1
    for rows in found:
        assert [row[0].token_ids for row in rows] == [row[0].token_ids for row in expected]
    assert all(torch.equal(own, before[name]) for name, own in backbone.model.named_parameters())


def test_to_take_the_adapter_out_again_takes_no_memory(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    before, own = weights(backbone), backbone.score(KEPT, "policy")
    with backbone.merged("policy"):
        assert any(not torch.equal(now, before[name]) for name, now in backbone.model.named_parameters())
        memory = NoMemory(monkeypatch, first=0)
    assert all(torch.equal(now, before[name]) for name, now in backbone.model.named_parameters())
    torch.testing.assert_close(backbone.score(KEPT, "policy"), own)
    assert memory.refused == 0


def test_another_error_while_the_adapter_is_merged_comes_through_and_leaves_the_base_as_it_was(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(backbone)
    merge = backbone.model.merge_adapter

    def fail(names: list[str]) -> None:
        merge(names)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(backbone.model, "merge_adapter", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        sample(backbone, PROMPTS, max_new_tokens=4)
    assert all(torch.equal(own, before[name]) for name, own in backbone.model.named_parameters())
