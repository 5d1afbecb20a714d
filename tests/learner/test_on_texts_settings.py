"""Settings, and kinds of data, that a training on texts can't go by are said, with what to do instead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from learner.on_texts import learn, learn_reward
from learner.sampling import SEEDS_APART
from learner.text_settings import NOT_FROM_PYTHON
from service.errors import BadInput, SettingsError
from service.settings import Settings
from service.settings.learning import HIGHEST_SEED
from tests.learner.tiny_model import build_tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "learning.md").read_text(encoding="utf-8")
PAIRS = [{"prompt": f"what is {word} ?", "chosen": "yes .", "rejected": "no ."} for word in ("one", "red")]
TIES = [{**PAIRS[0], "tie": True}]
CORRECTION = {"prompt": "what is two ?", "reply": "two ."}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 4}, "'rank' is no section.*They are by section, as in {'learner': {'rank'"),
        ({"learner": {"processes": 2, "sharding": "full"}}, r"learner\.processes, learner\.sharding: .*`hone learn`"),
        ({"learner": {"seed": 2**70}}, r"learner\.seed: must be at most 9223372036854775807, not "),
        ({"learner": {"seed": -1}}, r"learner\.seed: must be at least 0, not -1"),
        ({"server": {"port": 9}}, r"server\.port: nothing goes by that from Python"),
        ({"learner": {"rank": 100_000}}, r"learner\.rank is 100000, and the model is \d+ wide"),
        ({"learner": {"rollouts": "engine"}}, r"no engine is named\. Name it with learner\.rollout_urls"),
        ({"constitution": {"judge": "v3"}}, "There is no v3 here, which constitution.judge names"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(
    settings: dict[str, Any], said: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises((SettingsError, BadInput), match=said):
        learn("rloo", model, PAIRS, tmp_path / "out", settings)


def test_the_highest_seed_leaves_room_for_those_that_are_counted_up_from_it(model: Path, tmp_path: Path) -> None:
    few = {"iterations": 2, "prompts": 2, "replies": 2, "minibatch": 4, "max_new_tokens": 6, "value_warmup": 0}
    learn("ppo", model, PAIRS, tmp_path / "out", {"learner": {"seed": HIGHEST_SEED}, "ppo": few})
    assert (tmp_path / "out").exists()
    assert HIGHEST_SEED + 1000 * SEEDS_APART < 2**64  # what torch takes


def test_all_settings_that_are_refused_are_there_and_in_the_docs() -> None:
    listed = re.search(r"mean nothing from Python[^:]*: (.*?)\n\n", PAGE, re.DOTALL)
    assert listed is not None
    for section, names in NOT_FROM_PYTHON.items():
        assert set(names) <= type(getattr(Settings(home=Path()), section)).model_fields.keys()
        for name in names:
            assert f"`{section}.{name}`" in listed[1] or f"`{section}`" in listed[1], name


@pytest.mark.parametrize(
    ("method", "data", "said"),
    [
        ("dpo", TIES, r"it holds 1 tie\. A tie prefers neither reply.*learns from pairs with a better reply"),
        ("kto", TIES, r"it holds 1 tie\. A tie calls neither reply good or bad\."),
        ("sft", [*PAIRS, *TIES], r"it holds 2 pairs, 1 tie\. It learns from corrections"),
        ("dpo", [CORRECTION, {"prompt": "Who?"}], r"it holds 1 correction, 1 prompt alone\. It learns from pairs"),
        ("dpo", [], r"it holds no example\. It learns from pairs"),
        (
            "dpo",
            [{"prompt": "Who?", "ranking": ["a", "b"]}],
            r"Example 1: ranking: .*The fields are prompt, reply, .*order",
        ),
        ("reward", PAIRS, "There is no method 'reward'. `learn_reward` fits a reward model by itself"),
    ],
)
def test_what_was_found_and_what_is_wanted_is_said(
    method: str, data: list[dict[str, Any]], said: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=said):
        learn(method, model, data, tmp_path / "out")


def test_a_conversation_that_the_template_takes_not_is_named(model: Path, tmp_path: Path) -> None:
    strange = {"prompt": [{"role": "bot", "content": "a"}], "reply": "c"}
    sprout = "service/sprout"
    with pytest.raises(BadInput, match=r"^Example 2: prompt: .*Unknown role bot.*[^.]\. See docs/learning\.md\.$"):
        learn("sft", Path(__file__).parents[2] / sprout, [CORRECTION, strange], tmp_path / "out")
    with pytest.raises(BadInput, match="There is nothing in the data that a reward model learns from: it holds 1 c"):
        learn_reward(model, [CORRECTION], tmp_path / "out")
