"""A training that dies at a step, and what is compared with one that did not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.metrics import Metrics


class Killed(BaseException):
    """What a kill -9 is to the code that it hits."""


class Heard:
    """Writes metrics as a run does, and dies at a step, as a killed process does."""

    def __init__(self, path: Path, phase: str = "", dies_at: int = 1 << 30) -> None:
        self._metrics, self._phase, self._dies_at = Metrics(path), phase, dies_at
        self.phases: list[str] = []

    def __call__(self, phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        self.phases.append(phase)
        if metrics:
            self._metrics.add(phase, step, steps, metrics)
        if phase == self._phase and step >= self._dies_at:
            raise Killed


def state_of(backbone: Backbone) -> dict[str, Tensor]:
    roles = [role for role in ("policy", "reward", "value") if backbone.has(role)]
    return {f"{role} {name}": tensor for role in roles for name, tensor in backbone.adapter_state(role).items()}  # type: ignore[arg-type]


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
