"""The methods that the operator's page offers are those that a run can have."""

from __future__ import annotations

from typing import get_args

from service.settings import Method
from ui.methods import METHODS, offered


def test_every_method_that_a_run_can_have_is_offered_in_the_order_of_the_settings() -> None:
    assert tuple(METHODS) == get_args(Method)
    assert [method["name"] for group in offered() for method in group["methods"]] == list(METHODS)


def test_a_choice_is_told_from_every_other() -> None:
    groups = offered()
    assert len({group["label"] for group in groups}) == len(groups)
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    assert [group["by_constitution"] for group in groups].count(True) == 1
