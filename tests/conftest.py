"""Fixtures that more than one part's tests use live in `tests/fixtures`, one file a thing."""

import os

os.environ.setdefault("MKL_DYNAMIC", "FALSE")  # before torch loads: sums in one order, however busy the machine is

pytest_plugins = ["tests.fixtures.stores", "tests.fixtures.adapters", "tests.fixtures.engines"]
