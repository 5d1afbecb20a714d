"""The built-in model as a backbone, loaded once for each test module that asks for it, and settings of few examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.backbone import Backbone
from service.settings import SPROUT, LearnerSettings, Settings
from tests.learner.constitution.written import FEW


@pytest.fixture(scope="module")
def sprout() -> Backbone:
    return Backbone.load(SPROUT, LearnerSettings(rank=4))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a home of its own, which has no other test's beside it: runs take over what one of their like left."""
    (home := tmp_path / "home").mkdir()
    return Settings(home=home, learner=LearnerSettings(rank=4), constitution=FEW)
