"""docs/learning.md says of each method what it optimises, when to use it, its settings and its source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from service.settings import PpoSettings, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "learning.md").read_text(encoding="utf-8")
METHODS = (
    "SFT", "Reward model", "PPO", "REINFORCE", "RLOO", "GRPO", "DPO", "KTO", "Best-of-N", "RAFT", "LoRA and QLoRA",
    "SL-CAI", "RL-CAI",
)  # fmt: skip
POINTS = ("Optimises", "When", "Settings", "Source")
NO_SETTINGS = {"learner.methods", "constitution.toml", "constitution.jsonl", "constitution.unfinished"}
"""A package and files."""


def settings_there_are() -> set[str]:
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "home"}
    return {f"{name}.{key}" for name, section in sections.items() for key in getattr(section, "model_fields", {})}


def named(text: str) -> set[str]:
    """What is written as a setting: `learner.rank`, or `ppo.advantages = "rloo"`."""
    sections = "|".join(name for name in Settings.model_fields if name != "home")
    return set(re.findall(rf"`((?:{sections})\.[a-z_]+)(?: = [^`]*)?`", text))


def points_of(method: str) -> dict[str, str]:
    """What its section says under each of the points."""
    (section,) = re.findall(rf"^### {re.escape(method)}\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)
    return dict(re.findall(r"^- \*\*(\w+):\*\* (.+?)(?=\n- \*\*|\n\n)", section, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_its_four_points(method: str) -> None:
    points = points_of(method)
    assert tuple(points) == POINTS and all(len(said.split()) >= 3 for said in points.values())
    assert named(points["Settings"])
    assert re.search(r"arXiv \d{4}\.\d{5}|\b(19|20)\d\d\b", points["Source"])


def test_every_setting_that_the_page_names_exists() -> None:
    assert len(named(PAGE)) > 50
    assert named(PAGE) - NO_SETTINGS <= settings_there_are()


def test_every_setting_of_a_method_stands_in_a_section() -> None:
    told = {name for method in METHODS for name in named(points_of(method)["Settings"])}
    of_methods = r"(ppo|raft)\.|learner\.(sft|dpo|kto|reward)_|learner\.(rank|alpha|quantise)$"
    assert {name for name in settings_there_are() if re.match(of_methods, name)} <= told


@pytest.mark.parametrize("method", ["REINFORCE", "RLOO", "GRPO"])
def test_what_acts_with_gae_alone_is_named_as_what_other_ways_do_without(method: str) -> None:
    """The others go by what REINFORCE says."""
    plain = {"ppo.gamma", "ppo.lam", "ppo.whiten_rewards"}
    gae_alone = plain | {name for name in settings_there_are() if name.startswith("ppo.value_")}
    goes_by, _, without = points_of(method)["Settings"].partition("without")
    assert not named(goes_by) & gae_alone
    assert named(without) & gae_alone == (plain if method == "REINFORCE" else set())


def test_every_way_to_reckon_advantages_has_a_section() -> None:
    ways = set(get_args(PpoSettings.model_fields["advantages"].annotation))
    assert {name.lower() for name in METHODS} >= ways - {"gae"}
