"""Passes over examples go on where they were, with the numbers that would have been drawn."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from learner.backbone import SCORED, Backbone
from learner.batch import shuffled_batches
from learner.methods.optimizer import Stepper
from learner.methods.passes import Passes
from learner.stage_checkpoint import StageCheckpoint
from tests.learner.killed import assert_same, state_of
from tests.learner.tiny_backbone import SETTINGS, moved

STEPS = 8  # two passes and two steps: ten examples, three at a time


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, SETTINGS)


def passes_of(backbone: Backbone, rng: Random, checkpoint: StageCheckpoint | None = None) -> Passes:
    stepper = Stepper(backbone.trainable(), 0.1)
    return Passes("it", backbone, stepper, rng, checkpoint, beside=lambda: {"drawn": rng.getstate()[1][-1]})


def take(passes: Passes, rng: Random, dies_at: int = STEPS) -> list[tuple[list[int], float]]:
    """The batches of all steps up to one, each with a number that was drawn beside."""
    found = []
    while passes.step < STEPS:
        for batch in passes.batches(10, 3):
            found.append((batch, rng.random()))
            if passes.step == dies_at:
                return found
    return found


def test_batches_are_those_of_shuffling_pass_after_pass(backbone: Backbone) -> None:
    rng, other = Random(5), Random(5)
    batches = take(passes_of(backbone, rng), rng)
    expected = [(batch, other.random()) for _ in range(3) for batch in shuffled_batches(10, 3, other)]
    assert batches == expected[:STEPS]
    assert list(passes_of(backbone, rng).batches(0, 3)) == []


@pytest.mark.parametrize("dies_at", [1, 2, 4, 5, 8])
def test_what_is_gone_on_from_has_the_rest_as_it_would_have_been(
    backbone: Backbone, tmp_path: Path, dies_at: int
) -> None:
    rng, path = Random(5), tmp_path / "it"
    whole = take(passes_of(backbone, rng), rng)
    rng = Random(5)
    take(passes_of(backbone, rng, StageCheckpoint(path)), rng, dies_at)
    rng = Random(99)
    again = passes_of(backbone, rng, StageCheckpoint(path))
    assert again.under_way and again.step == dies_at - 1 and again.kept.keys() == {"drawn"}
    assert take(again, rng) == whole[dies_at - 1 :] and again.step == STEPS


def test_weights_and_what_fits_the_memory_go_on_too(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    moved(backbone).fitting[SCORED].most = 3
    rng = Random(0)
    take(passes_of(backbone, rng, StageCheckpoint(tmp_path / "it")), rng, 1)
    other = Backbone.load(folder, SETTINGS)
    passes_of(other, rng, StageCheckpoint(tmp_path / "it"))
    assert_same(state_of(other), state_of(backbone))
    assert other.fitting[SCORED].most == 3


def test_batches_of_one_s_own_and_another_role_go_on_alike(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    def passes_of_reward(backbone: Backbone, rng: Random) -> Passes:
        backbone.add_head("reward")
        stepper = Stepper(backbone.trainable("reward"), 0.1)
        return Passes("it", backbone, stepper, rng, StageCheckpoint(tmp_path / "it"), role="reward")

    def draw(rng: Random) -> list[tuple[list[int], list[int]]]:
        return [([rng.randrange(9)], [number]) for number in range(3)]

    first, drawn = passes_of_reward(backbone, Random(1)), list[tuple[list[int], list[int]]]()
    for weight in backbone.trainable("reward"):
        weight.data.add_(1.0)
    for batch in first.through(draw):
        drawn.append(batch)
        if first.step == 2:
            break
    again = passes_of_reward(other := Backbone.load(folder, SETTINGS), rng := Random(7))
    assert_same(other.adapter_state("reward"), backbone.adapter_state("reward"))
    assert [tuple(batch) for batch in again.through(draw)][:1] == drawn[1:] and again.step == 3
    expected = Random(1)
    draw(expected)
    assert rng.getstate() == expected.getstate() and not again.under_way


def test_before_it_is_time_to_nothing_is_kept(backbone: Backbone, tmp_path: Path) -> None:
    rng, path = Random(0), tmp_path / "it"
    take(passes_of(backbone, rng, StageCheckpoint(path, every_seconds=3600)), rng)
    assert not path.exists()


def test_what_is_held_is_written_with_what_is_kept(backbone: Backbone, tmp_path: Path) -> None:
    rng, path = Random(0), tmp_path / "it"
    checkpoint = StageCheckpoint(path)
    checkpoint.hold("basis", {"numbers": torch.arange(3)})
    assert not path.exists() and checkpoint.part("basis")
    take(passes_of(backbone, rng, checkpoint), rng, 1)
    assert StageCheckpoint(path).part("basis")["numbers"].tolist() == [0, 1, 2]
