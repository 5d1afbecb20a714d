"""A running fake service, and the pages' client to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.serving import serve
from tests.ui.fake_app import fake_app
from tests.ui.fake_service import FakeService


@pytest.fixture
def fake() -> FakeService:
    return FakeService()


@pytest.fixture
def api_url(fake: FakeService) -> Iterator[str]:
    with serve(fake_app(fake)) as url:
        yield url
