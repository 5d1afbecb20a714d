"""The tiny model, made once for each test module that asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learner.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))
