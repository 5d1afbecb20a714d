"""What a stage left out or cut for its length, or couldn't use, is said of the training when it is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair
from learner.methods import kto, rlhf, sl_cai
from learner.omissions import omissions_in_words
from learner.trained import Trained
from service.settings import LearnerSettings, PpoSettings, RaftSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=2, reward_epochs=1, kto_epochs=1, batch_size=4, min_fluency=-50.0)
SHORT, OTHER = ids("<bos> red you ?"), ids("<bos> what is it ?")
LONG = ids("<bos> " + "one " * 40)  # of the 64 tokens that the model takes
YES, NO = ids("yes", end=True), ids("no", end=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 8)


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, SETTINGS)


def test_counts_become_words_and_none_become_none() -> None:
    assert omissions_in_words(0, {"kl": 3.0, "prompts_too_long": 0}) == ""
    assert omissions_in_words(1, {}) == "left out 1 example longer than the model's context"
    counts = {"prompts_too_long": 2, "left_out": 1, "ungraded": 1.0, "prompts_cut": 3}
    assert omissions_in_words(0, counts) == (
        "left out 2 prompts without room for a reply and 1 prompt over which engines went away and 1 reply without a "
        "finite reward and cut 3 prompts on the left to fit the model's context"
    )


def test_kto_says_how_many_prompts_it_cut_to_fit_another_reply(backbone: Backbone, tmp_path: Path) -> None:
    """The longest prompt fits with its own short reply, and not with the long one of the only other label."""
    labels = [Label(LONG, YES, True), Label(SHORT, ids("two " * 30, end=True), False)]
    result, trained = kto.train(backbone, labels, [OTHER], SETTINGS, Heard()), Trained()
    assert (result.metrics["prompts_cut"], result.metrics["prompts_too_long"]) == (1, 1)
    trained.add("kto", result)
    assert trained.remarks[0] == (
        "kto left out 1 prompt without room for a reply and cut 1 prompt on the left to fit the model's context."
    )
    trained.write(tmp_path)
    assert Trained.read(tmp_path).remarks == trained.remarks


def test_prompts_without_room_measure_no_stage_of_the_constitution(backbone: Backbone) -> None:
    revised = [Demonstration(SHORT, NO), Demonstration(LONG, ids("two " * 40, end=True))]
    result = sl_cai.train(backbone, revised, [(OTHER, YES)], [OTHER, LONG], SETTINGS, Heard())
    assert (result.too_long, result.metrics["prompts_too_long"]) == (1, 1)


@pytest.mark.parametrize(
    "how",
    [
        PpoSettings(iterations=3, prompts=2, replies=2, max_new_tokens=4),
        RaftSettings(iterations=2, prompts=2, replies=8, max_new_tokens=24, epochs=1),
    ],
    ids=["ppo", "raft"],
)
def test_what_follows_a_reward_says_how_it_fits_and_what_it_came_to(
    backbone: Backbone, how: PpoSettings | RaftSettings
) -> None:
    pairs = [Pair(prompt, YES, NO) for prompt in (SHORT, OTHER)] + [Pair(LONG, ids("two " * 40, end=True), NO)]
    heard, trained = Heard(), Trained()
    trained.add("ppo", rlhf.train(backbone, pairs, [], [SHORT, OTHER, LONG], SETTINGS, how, heard))
    assert trained.remarks[0] == (
        "ppo left out 1 example longer than the model's context and 1 prompt without room for a reply."
    )
    told, figures = [step[3] for step in heard.steps if "reward" in step[3]], trained.to_json()["stages"]["ppo"]
    assert figures["reward_gained"] == told[-1]["reward_gained"] == told[-1]["reward"] - told[0]["reward"]
    assert figures["reward"] == told[-1]["reward"] and told[0]["reward_gained"] == 0
    assert figures["reward_disagreement"] > 0
    assert (figures["reward_temperature"], figures["reward_kept"]) == (1, 0) and "reward_accuracy" not in figures
