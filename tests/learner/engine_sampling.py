"""What a training is given to sample with: a tiny policy, engines in memory, and who hears that it waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learner import patience
from learner.backbone import Backbone
from learner.engine_sampler import EngineSampler
from learner.sampling import Reply
from tests.learner.pretend_engine import PretendEngine, PretendEngines
from tests.learner.tiny_backbone import SETTINGS
from tests.learner.toy_rewards import PROMPTS


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, SETTINGS)


@pytest.fixture
def engine(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> PretendEngine:
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(patience, "TELL_SECONDS", 0.02)
    return PretendEngine(backbone)


def engines(home: Path, *pretend: PretendEngine, **terms: Any) -> PretendEngines:
    urls = tuple(f"http://engine-{number}" for number in range(len(pretend)))
    return PretendEngines(urls, home / "passing", slots=8, pretend=pretend, **{"wait_seconds": 20.0} | terms)


class Told:
    """Hears whether the sampler waits; calls `then` when it first does."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.waits, self._then = 0, then

    def __call__(self, waits: bool) -> None:
        self.waits += waits
        if waits and self.waits == 1:
            self._then()


def replies(sampler: EngineSampler, tell: Callable[[bool], None] | None = None) -> list[list[Reply]]:
    return sampler.sample(PROMPTS, per_prompt=3, max_new_tokens=6, seed=5, tell=tell or Told())
