"""Fixtures that more than one part's tests use live in `tests/fixtures`, one file a thing."""

import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("MKL_DYNAMIC", "FALSE")  # before torch loads: sums in one order, however busy the machine is
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before its library loads: nothing that is tested comes from a hub

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
hypothesis.settings.load_profile("untimed")

pytest_plugins = [
    "tests.fixtures.stores",
    "tests.fixtures.adapters",
    "tests.fixtures.engines",
    "tests.fixtures.object_store",
    "tests.fixtures.pages",
]


@pytest.fixture(autouse=True)
def _numbers_near_zero_stay() -> Iterator[None]:
    """A test that leaves its thread rounding subnormal numbers to zero would fail others, far from itself."""
    yield
    assert sys.float_info.min / 2 > 0, "torch.set_flush_denormal(True) belongs into a process of its own"
