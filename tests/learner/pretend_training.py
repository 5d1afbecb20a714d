"""Runs whose trainer trains nothing: what a cycle does around a training, without one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from learner.batch import Progress
from learner.curate import Curated
from learner.cycle import Cycle
from learner.trainer import Keep, Stage
from service.store.queries import adapters, feedback, runs, serving
from tests.learner.queued_runs import lease, queue
from tests.learner.store_fixtures import Home, tokenize


class Killed(BaseException):
    """What a kill -9 is to the code it hits: nothing of it runs any more."""


class Pretender:
    """Trains nothing, writes a well-formed adapter, and calls `at(place)` where a kill may come."""

    def __init__(self, at: Callable[[str], None] = lambda place: None, gates: tuple[str, ...] = ()) -> None:
        self.at, self.failing = at, gates
        self.parents: list[Path | None] = []
        self.anchors: list[Path | None] = []
        self.keeps: list[Keep] = []
        self.done: list[str] = []

    def make(self, parent: Path | None, keep: Keep, anchor: Path | None) -> Pretender:
        self.parents.append(parent)
        self.anchors.append(anchor)
        self.keeps.append(keep)
        return self

    def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated:
        self.at("write")
        return lessons

    def train(self, stages: tuple[Stage, ...], lessons: Curated, checkpoint: Path, progress: Progress) -> None:
        self.done.append("train")
        for stage in stages:
            for step in range(1, 4):
                progress(stage, step, 3, {"loss": 1 / step})
                self.at(f"{stage} {step}")

    def save(self, folder: Path, lessons: Curated) -> None:
        folder.mkdir()
        prefix = "base_model.model.model.layers.0.self_attn.q_proj"
        shapes = {f"{prefix}.lora_A.weight": (2, 8), f"{prefix}.lora_B.weight": (8, 2)}
        save_file(
            {name: np.ones(shape, np.float32) for name, shape in shapes.items()}, folder / "adapter_model.safetensors"
        )
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "target_modules": ["q_proj"], "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        self.at("saved")

    def restore(self, folder: Path) -> None:
        self.done.append("restore")

    def evaluate(self, stages: tuple[Stage, ...], lessons: Curated, progress: Progress) -> dict[str, Any]:
        self.done.append("evaluate")
        self.at("evaluate")
        gates = [{"name": name, "passed": False, "reason": f"{name} is not met."} for name in self.failing]
        return {"gates": gates, "fluency": -0.01, "samples": [{"prompt": "hi", "reply": "ho"}], "odd": float("nan")}

    def probes(self, lessons: Curated) -> list[dict[str, Any]]:
        self.at("publish")
        return [{"prompt_token_ids": [1], "token_ids": [2], "logprobs": [-1.0], "base_logprobs": [-2.0]}]


@pytest.fixture(autouse=True)
def small_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The built-in model's weights are not what is tested here."""
    for module in ("cycle", "parents"):
        monkeypatch.setattr(f"learner.{module}.base_fingerprint", lambda model: "0" * 64)
    yield


def cycle(home: Home, leased: runs.Lease, trainer: Pretender) -> Cycle:
    return Cycle(home.settings, home.store, leased.run_id, leased.fence, tokenize, trainer.make)


def adapters_of(home: Home) -> dict[str, str]:
    with home.store.read() as tx:
        return {adapter.name: adapter.state for adapter in adapters.list_adapters(tx)}


def learn_v1(home: Home) -> None:
    """A first run, which makes a candidate of one correction."""
    home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()


def requested(home: Home) -> str | None:
    with home.store.read() as tx:
        return serving.desired_state(tx).requested


def withdraw(home: Home, name: str) -> None:
    with home.store.begin() as tx:
        feedback.withdraw_feedback(tx, "name:ann", name)


def go_live(home: Home, name: str, actor: str = "learner") -> None:
    with home.store.begin() as tx:
        serving.flip_live(tx, name, actor, "proven")
