"""Several processes that share a training learn what one does."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from learner import parallel
from learner.backbone_trainer import BackboneTrainer
from learner.curate import Curated
from learner.sampling import Reply
from learner.sharding import layers_of
from learner.team import Team, _TeamTrainer
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.fixtures.waiting import PATIENCE
from tests.learner.short_trainings import METHODS
from tests.learner.store_fixtures import Home
from tests.learner.tiny_model import build_tiny_model

pytestmark = pytest.mark.timeout(3600)  # seconds, against hanging: several trainings are waited for
Found = dict[str, Any]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one process makes."""
    (found,) = made_by(1, "none", tmp_path_factory.mktemp("alone"))
    return found


@pytest.fixture(scope="module", params=["none", "full"])
def found(
    alone: Found, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Found, Found, Found]:
    """What one process makes, and each of two that share the work, and perhaps the base."""
    first, second = made_by(2, request.param, tmp_path_factory.mktemp("sharing"))
    return alone, first, second


@pytest.fixture
def is_shared(request: pytest.FixtureRequest, found: tuple[Found, Found, Found]) -> bool:
    """Whether each of the two has a part of the base alone."""
    return bool(request.node.callspec.params["found"] == "full")


def made_by(world: int, sharding: str, folder: Path) -> list[Found]:
    model, outputs, processes = build_tiny_model(folder / "model"), list[Path](), list[subprocess.Popen[str]]()
    for rank in range(world):
        outputs.append(folder / str(rank))
        command = [sys.executable, "-m", "tests.learner.sharing"]
        command += [str(rank), str(world), str(folder / "meeting"), str(model), str(outputs[-1]), sharding]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    try:
        for process in processes:
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    return [torch.load(output, weights_only=False) for output in outputs]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_gradients_and_the_weights_of_one(
    found: tuple[Found, Found, Found], method: str
) -> None:
    alone, first, second = (one[method] for one in found)
    for one, shared in zip(alone["gradients"], first["gradients"], strict=True):
        assert one.abs().max() > 1e-4
        torch.testing.assert_close(shared, one, atol=1e-6 * max(1.0, float(one.abs().max())), rtol=1e-4)
    for mine, other in zip(first["gradients"], second["gradients"], strict=True):
        assert torch.equal(mine, other)
    for one, shared in zip(alone["metrics"], first["metrics"], strict=True):
        assert shared == pytest.approx(one, rel=1e-4)
    assert first["metrics"] == second["metrics"]
    for name, weights in alone["state"].items():
        torch.testing.assert_close(first["state"][name], weights, atol=1e-5, rtol=0)
        assert torch.equal(first["state"][name], second["state"][name])


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_all_processes_go_on_from_one_checkpoint(found: tuple[Found, Found, Found], method: str) -> None:
    alone, first, second = (one[f"{method} gone on with"] for one in found)
    for one in (alone, first, second):
        assert 0 < one["steps again"] < one["steps"]
        for name, weights in one["straight"].items():
            assert torch.equal(one["state"][name], weights), name
    for name, weights in first["state"].items():
        assert torch.equal(second["state"][name], weights)


def test_what_is_scored_is_shared_out_and_comes_back_in_order(found: tuple[Found, Found, Found]) -> None:
    alone, first, second = (one["facts"] for one in found)
    assert alone["none"].shape == (0,) and alone["few"].shape == (1,)
    for name, scores in alone.items():
        torch.testing.assert_close(first[name], scores, atol=1e-5, rtol=1e-5)
        assert torch.equal(first[name], second[name])


def test_the_same_seed_samples_the_same_where_as_many_share_it(found: tuple[Found, Found, Found]) -> None:
    alone, first, second = found
    assert first["sampled"] == first["sampled again"] == second["sampled"] != alone["sampled"]


def test_work_is_put_together_in_order_whoever_did_it(found: tuple[Found, Found, Found]) -> None:
    alone, *both = (one["put together"] for one in found)
    for shared in both:
        assert shared["each"] == [0, 1, 4, 9, 16, 25, 36] and shared["one"] == [16] and shared["none"] == []
        assert shared["rows"].tolist() == [[3, 3], [1, 1], [2, 2]]
        assert shared["engine"] == alone["engine"] == [[Reply(0, (1, 2), -1.0, True, (-0.5, -0.5))]]
        assert shared["totals"] == {"both": (2.0, 4.0), "mine": (5.0,)}
        assert "have come to different weights" in shared["apart"]
    assert alone["apart"] == ""
    assert alone["totals"] == {"both": (1.0, 2.0), "mine": (5.0,)}


def test_a_step_is_the_same_for_all_be_it_empty_for_one_or_bad_for_another(found: tuple[Found, Found, Found]) -> None:
    alone, first, second = (one["put together"] for one in found)
    assert first["weight"] == second["weight"] == pytest.approx(alone["weight"])
    losses = [step["loss"] for step in alone["steps"]]
    assert losses[0] == 2.0 and 0 < losses[1] < 3 * losses[0] and not any(map(math.isfinite, losses[2:]))
    for shared in (first, second):
        assert [step["skipped"] for step in shared["steps"]] == [0, 0, 1, 2]
        for step, one in zip(shared["steps"], alone["steps"], strict=True):
            assert step == pytest.approx(one, nan_ok=True)


def test_each_process_keeps_half_of_a_shared_base_and_a_layer_no_longer_than_it_is_used(
    found: tuple[Found, Found, Found], is_shared: bool
) -> None:
    alone, *both = (one["parts"] for one in found)
    ((whole, part), after) = alone["held"]
    assert part == 0 and after == (whole, part)
    layer, of_layers = alone["layer"], 2 * alone["layer"]
    for shared in both:
        assert shared["held"] == 2 * [(whole - of_layers, of_layers // 2) if is_shared else (whole, 0)]
        assert set(shared["during"]) == {(0, layer // 2) if is_shared else (layer, 0)}
        assert shared["step"] == pytest.approx(alone["step"], rel=1e-4)
        torch.testing.assert_close(shared["by first"], alone["by first"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", ["kept", "run again"])
def test_one_process_may_run_out_of_memory_and_take_more_parts_than_another(
    found: tuple[Found, Found, Found], layers: str
) -> None:
    alone, first, second = (one["uneven"] for one in found)
    assert alone[layers + " by"] == [6] and first[layers + " by"] == second[layers + " by"] == [3, 2, 1, 1, 1]
    assert sum(float(gradient.abs().sum()) > 0 for gradient in alone[layers]) == len(alone[layers])
    for one, *shared in zip(alone[layers], first[layers], second[layers], strict=True):
        for gradient in shared:
            torch.testing.assert_close(gradient, one, atol=1e-5 * max(1.0, float(one.abs().max())), rtol=1e-4)


def test_a_model_without_known_layers_is_not_shared_out() -> None:
    with pytest.raises(TrainingFailed, match=r"what this model's layers are.*learner.sharding to none"):
        layers_of(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_more_processes_than_gpus_are_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parallel.check(2) == 2
    with pytest.raises(TrainingFailed, match="processes is 3, but this machine has 2 GPUs"):
        parallel.check(3)


def test_processes_share_the_threads() -> None:
    assert LearnerSettings(threads=8, processes=3).training_threads == 2
    assert LearnerSettings(threads=1, processes=2).training_threads == 1


def test_the_others_are_met_again_where_what_the_first_does_alone_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As often as they were asked to: a full disk is waited for, and the adapter written once more."""
    heard: list[str] = []
    monkeypatch.setattr(parallel, "meet", lambda: heard.append("met"))

    class Asked(Team):
        def ask(self, what: str, *arguments: Any) -> None:
            heard.append(what)

    class Full(BackboneTrainer):
        def __init__(self) -> None:
            pass

        def save(self, folder: Path, lessons: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    home = Home(tmp_path)
    trainer = _TeamTrainer(Asked(home.settings, "run_1", give_up=lambda: None), Full())
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            trainer.save(tmp_path / "adapter", cast(Curated, None))
    assert heard == ["meet", "met"] * 2
