"""Fixtures that more than one part's tests use live in `tests/fixtures`, one file a thing."""

pytest_plugins = ["tests.fixtures.stores", "tests.fixtures.adapters", "tests.fixtures.engines"]
