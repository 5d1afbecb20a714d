"""What the service refuses a command with."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import ConstitutionUnusable, EnginesBusy, HoneError, NotFound, TooLarge
from service.operator_client import Refused


@pytest.mark.parametrize("error", [ConstitutionUnusable("x"), EnginesBusy("x"), NotFound("x"), TooLarge("x")])
def test_a_command_exits_as_the_error_of_the_service_says(error: HoneError) -> None:
    refused = Refused(error.status, error.body())
    assert (refused.exit_code, refused.body()) == (error.exit_code, error.body())


@pytest.mark.parametrize(
    ("status", "answer", "exit_code"),
    [(403, None, 3), (413, "too large", 2), (502, {}, 1), (400, {"error": {"message": "x", "code": "of_tomorrow"}}, 2)],
)
def test_a_command_exits_by_the_status_where_the_error_is_not_the_services(
    status: int, answer: Any, exit_code: int
) -> None:
    assert Refused(status, answer).exit_code == exit_code
