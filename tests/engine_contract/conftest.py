"""One suite, two engines: what the service relies on at the seam, asked of the embedded engine and of vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from service.settings import SPROUT
from tests.embedded.models import save_adapter
from tests.fixtures.engines import ServedEngine

VLLM = pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.xdist_group("vllm")])


@pytest.fixture(scope="session", params=["embedded", VLLM])
def engine(request: pytest.FixtureRequest) -> ServedEngine:
    found: ServedEngine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter, which changes what `sprout` says."""
    return save_adapter(tmp_path_factory.mktemp("adapters") / "one", SPROUT, seed=1)


@pytest.fixture(scope="session")
def other_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "two", SPROUT, seed=2)


_numbers = count(1)


@pytest.fixture
def name(engine: ServedEngine) -> Iterator[str]:
    """A name that no adapter ever had; what is loaded under it is unloaded after the test."""
    fresh = f"adapter-{next(_numbers)}"
    yield fresh
    engine.unload(fresh)
