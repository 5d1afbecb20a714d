"""What becomes of a training that several processes share when one of them dies."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from learner.daemon import Learner
from learner.metrics import read_metrics
from learner.run_folder import RunFolder
from service.adapters.files import check_folder
from service.embedded.messages import AddSequence
from service.settings import EngineSettings
from tests.embedded.driving import GREEDY, Reference, attach, build, run
from tests.fixtures.waiting import until
from tests.learner.queued_runs import queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.tiny_model import build_tiny_model

pytestmark = pytest.mark.timeout(3600)  # seconds, against hanging: several trainings are waited for


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
            is_it = the_run(self.home, self.run_id).attempt == attempt and self.folder.metrics.exists()
            return is_it and len(read_metrics(self.folder.metrics)) > seen and bool(followers())

        until(look)
        (follower,) = followers()
        return follower

    def wait_until_it_is_over(self, attempts: int) -> None:
        def is_over() -> bool:
            self.learner.work()
            return the_run(self.home, self.run_id).state not in ("queued", "running")

        until(is_over)
        run = the_run(self.home, self.run_id)
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
