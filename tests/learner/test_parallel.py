"""Several processes that share a training learn what one does; and what becomes of them when one of them dies."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch

from learner import parallel
from learner.backbone_trainer import BackboneTrainer
from learner.curate import Curated
from learner.daemon import Learner
from learner.metrics import read_metrics
from learner.run_folder import RunFolder
from learner.sampling import Reply
from learner.sharding import layers_of
from learner.team import Team, _TeamTrainer
from service.adapters.files import check_folder
from service.embedded.messages import AddSequence
from service.errors import TrainingFailed
from service.settings import EngineSettings, LearnerSettings
from tests.embedded.driving import GREEDY, Reference, attach, build, run
from tests.fixtures.waiting import PATIENCE, until
from tests.learner.sharing import METHODS
from tests.learner.store_fixtures import Home
from tests.learner.test_daemon import queue, state_of
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


def followers(of: int | None = None) -> list[psutil.Process]:
    found = psutil.Process(of).children(recursive=True)
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE and "learner.follower" in one.cmdline()]


class Trained:
    """A run over a tiny model that two processes share, and what a test sees of it."""

    def __init__(self, folder: Path, **learner: object) -> None:
        self.model = build_tiny_model(folder / "model")
        self.home = home = Home(folder / "home", processes=2, threads=2, lease_seconds=60.0, **learner)
        home.settings = home.settings.model_copy(update={"engine": EngineSettings(model=str(self.model))})
        for number in range(6):
            home.correct("it is rome .", "it is paris .", prompt=(0, 20 + number, 30 + number), base=str(self.model))
        self.learner, self.run_id = Learner(home.settings, home.store), queue(home)
        self.folder = RunFolder.of(home.settings, self.run_id)

    @property
    def log(self) -> str:
        return (self.folder.path / "log.txt").read_text()

    def wait_until_it_trains(self, attempt: int) -> psutil.Process:
        """Returns the follower."""
        seen = len(read_metrics(self.folder.metrics)) + 5 if attempt > 1 else 0  # what was under way may yet be written

        def look() -> bool:
            self.learner.work()
            is_it = state_of(self.home, self.run_id).attempt == attempt and self.folder.metrics.exists()
            return is_it and len(read_metrics(self.folder.metrics)) > seen and bool(followers())

        until(look)
        (follower,) = followers()
        return follower

    def wait_until_it_is_over(self, attempts: int) -> None:
        def is_over() -> bool:
            self.learner.work()
            return state_of(self.home, self.run_id).state not in ("queued", "running")

        until(is_over)
        run = state_of(self.home, self.run_id)
        assert run.state in ("succeeded", "rejected") and (run.adapter, run.attempt) == ("v1", attempts), self.log
        assert self.folder.read_report() is not None
        until(lambda: not followers())  # the run is over a little before its processes are

    def stop(self) -> None:
        self.learner.stop()
        self.home.store.close()


def has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)  # nobody may have waited for it yet
    except psutil.NoSuchProcess:
        return True


def test_a_training_by_two_processes_outlives_the_death_of_either(tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    try:
        trained.wait_until_it_trains(1).kill()
        follower = trained.wait_until_it_trains(2)
        assert "died" in trained.log
        first = follower.parent()
        assert first is not None and "learner.child" in first.cmdline()
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: has_ended(follower))
        trained.wait_until_it_is_over(3)
        assert (trained.home.settings.adapters_folder / "v1" / "adapter_model.safetensors").exists()
    finally:
        trained.stop()


def test_an_adapter_of_a_shared_base_outlives_a_process_and_serves_as_any_other(tmp_path: Path) -> None:
    trained = Trained(tmp_path, sharding="full")
    try:
        trained.wait_until_it_trains(1).kill()
        trained.wait_until_it_is_over(2)
        assert "Process 2 of the 2 that train has died" in trained.log
    finally:
        trained.stop()
    adapter = trained.home.settings.adapters_folder / "v1"
    by_peft, engine = Reference(trained.model, adapter), build(trained.model)
    attach(engine, "v1", adapter)
    for probe in check_folder(adapter).probes:  # which the first process computed alone
        prompt = list(probe.prompt_token_ids)
        found = by_peft.logprobs([*prompt, *probe.token_ids])[len(prompt) - 1 : -1]
        said = [float(row[token]) for row, token in zip(found, probe.token_ids, strict=True)]
        assert said == pytest.approx(probe.logprobs, abs=1e-4)
        (update,) = run(engine, [AddSequence(0, prompt, replace(GREEDY, max_tokens=1), "v1")])[0]
        assert update.logprob == pytest.approx(float(found[0].max()), abs=1e-4)
        assert probe.logprobs != pytest.approx(probe.base_logprobs, abs=1e-2)
