"""The model card says what was measured, and what of it is weak."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from learner.pretrain.card import model_card
from service.settings import SPROUT

EFFORT = dict.fromkeys(
    ("parameters", "layers", "hidden", "heads", "kv_heads", "vocab", "context", "tokens", "minutes", "steps",
     "practised", "seed", "sharpness"), 1,
)  # fmt: skip


@pytest.fixture
def figures() -> dict[str, Any]:
    measured: dict[str, Any] = json.loads((SPROUT / "evaluation.json").read_text())
    return measured


def short(figures: dict[str, Any]) -> str:
    return model_card(figures, EFFORT).partition("## Where it falls short")[2]


def test_the_card_in_the_repository_is_that_of_its_figures(figures: dict[str, Any]) -> None:
    card, head = (SPROUT / "README.md").read_text(), "## What was measured"
    assert card.partition(head)[2] == model_card(figures, EFFORT).partition(head)[2]


@pytest.mark.parametrize(
    ("table", "name", "line"),
    [
        ("conversation", "a new name in the greeting", "conversation: a new name in the greeting, 79.9 %"),
        ("limits", "unknown things, says so", "limits: unknown things, says so, 79.9 %"),
        ("critique", "safe", "critique: safe, 79.9 %"),
        ("revision", "asks", "revision: asks, 79.9 %"),
    ],
)
def test_every_figure_that_is_weak_is_told(figures: dict[str, Any], table: str, name: str, line: str) -> None:
    assert line not in short(figures)
    weaker = copy.deepcopy(figures)
    weaker[table][name] = 0.799
    assert f"  - {line}\n" in short(weaker)
    weaker["accuracy"]["sampled by topic"]["rhymes"][0] = 0.5
    weaker["judgement"]["short"]["same after a swap"] = 0.6
    assert "  - right answers at temperature 1: rhymes, 50.0 %\n" in short(weaker)
    assert "  - A/B judgement, short: same after a swap, 60.0 %\n" in short(weaker)


def test_what_need_not_be_high_is_no_shortcoming(figures: dict[str, Any]) -> None:
    figures["limits"]["harmless deeds, refuses (sampled)"] = 0.0
    figures["judgement"]["short"]["says A"] = 0.5
    for told in ("harmless deeds, refuses", "claims not to know", "says A", "exclaims", "facts kept from it: right"):
        assert told not in short(figures)
