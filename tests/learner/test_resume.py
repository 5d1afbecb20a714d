"""What follows a reward goes on after a kill, inside its stage, and comes to what the unbroken training comes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from safetensors.torch import load_file
from torch import Tensor

from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Label
from learner.curate import Curated
from learner.methods import ppo, raft, reward, rlhf
from learner.methods.reward_model import RewardFit
from learner.metrics import read_metrics
from learner.sampler import InProcessSampler
from learner.stage_checkpoint import StageCheckpoint
from learner.trained import TRAINED_FILE
from service.settings import EngineSettings, LearnerSettings, PpoSettings, RaftSettings, Settings
from tests.fixtures.full_disk import no_file_above
from tests.learner.colours import asked, comparisons, said
from tests.learner.killed import Heard, Killed, assert_same, state_of
from tests.learner.lessons import lessons
from tests.learner.tiny_model import build_tiny_model, ids
from tests.learner.toy_rewards import PROMPTS, Counting

LEARNER = LearnerSettings(rank=4, alpha=8.0, threads=1)
KEPT = [(prompt, ids("one two", end=True)) for prompt in PROMPTS]
PPO = PpoSettings(
    iterations=4, prompts=3, replies=4, minibatch=5, max_new_tokens=6, learning_rate=1e-2, target_kl=0.05,
    kl_horizon=30, stop_kl=10.0,
)  # fmt: skip
RAFT = RaftSettings(iterations=4, prompts=3, replies=4, minibatch=2, max_new_tokens=8, learning_rate=1e-2)


def train(
    folder: Path, how: rlhf.Optimiser, heard: Heard, checkpoint: StageCheckpoint
) -> tuple[dict[str, Tensor], ppo.PpoResult | raft.RaftResult, int]:
    """In a process of its own, so to speak; returns the weights, what the method says, and how much was graded."""
    backbone, judge = Backbone.load(folder, LEARNER), Counting()
    result: ppo.PpoResult | raft.RaftResult
    if isinstance(how, PpoSettings):
        result = ppo.train(backbone, judge, PROMPTS, how, heard, seed=3, pretraining=KEPT, checkpoint=checkpoint)
    else:
        result = raft.train(backbone, judge, PROMPTS, how, heard, seed=3, checkpoint=checkpoint)
    return state_of(backbone), result, len(judge.graded)


@pytest.mark.parametrize(
    ("how", "kills"),
    [
        (PPO, (8, 14)),
        (PPO.model_copy(update={"prompts": 9}), (12,)),
        (PPO.model_copy(update={"advantages": "reinforce"}), (8,)),
        (PPO.model_copy(update={"advantages": "rloo", "entropy_coefficient": 0.01}), (8,)),
        (PPO.model_copy(update={"advantages": "grpo", "target_kl": None}), (8,)),
        (RAFT, (7, 11)),
    ],
    ids=["gae", "fewer prompts", "reinforce", "rloo", "grpo", "raft"],
)
def test_a_killed_training_goes_on_and_comes_to_the_same_bit_for_bit(
    folder: Path, tmp_path: Path, how: rlhf.Optimiser, kills: tuple[int, ...]
) -> None:
    phase = "raft" if isinstance(how, RaftSettings) else "ppo" if how.advantages == "gae" else how.advantages
    straight = train(folder, how, Heard(tmp_path / "straight"), StageCheckpoint())
    for dies_at in kills:
        with pytest.raises(Killed):
            train(folder, how, Heard(tmp_path / "broken", phase, dies_at), StageCheckpoint(tmp_path / "it", "this"))
    state, result, graded = train(folder, how, Heard(tmp_path / "broken"), StageCheckpoint(tmp_path / "it", "this"))
    assert_same(state, straight[0])
    assert result == straight[1]
    assert graded < straight[2]  # it did go on
    lines = read_metrics(tmp_path / "broken")
    assert lines == read_metrics(tmp_path / "straight")
    assert [line["step"] for line in lines] == list(range(1, result.steps + 1))


def fitted(folder: Path, heard: Heard, checkpoint: StageCheckpoint) -> tuple[dict[str, Tensor], RewardFit]:
    """A reward model, in a process of its own: of judgements of which some are kept apart, so that it stops by them."""
    backbone, settings = Backbone.load(folder, LEARNER), LEARNER.model_copy(update={"reward_epochs": 4})
    good = [Label(asked(70 + number), said("red", Random(number)), number % 2 == 0) for number in range(6)]
    model = reward.fit(backbone, comparisons(60), good, settings, heard, checkpoint=checkpoint)
    return state_of(backbone), model.fit


def test_a_killed_fit_of_the_reward_model_goes_on_and_comes_to_the_same_bit_for_bit(
    folder: Path, tmp_path: Path
) -> None:
    """Killed in mid-pass, and after the last step of one: the next begins with what is kept apart."""
    whole = Heard(tmp_path / "straight")
    straight = fitted(folder, whole, StageCheckpoint())
    assert straight[1].kept >= 8 and straight[1].steps % 4 == 0
    for dies_at in (2, straight[1].steps // 4 + 1, straight[1].steps - 1):
        with pytest.raises(Killed):
            fitted(folder, Heard(tmp_path / "broken", "reward", dies_at), StageCheckpoint(tmp_path / "it", "this"))
    rest = Heard(tmp_path / "broken")
    state, fit = fitted(folder, rest, StageCheckpoint(tmp_path / "it", "this"))
    assert_same(state, straight[0])
    assert fit == straight[1]
    assert len(rest.phases) < len(whole.phases) / 2  # it did go on
    lines = read_metrics(tmp_path / "broken")
    assert lines == read_metrics(tmp_path / "straight")
    assert [line["step"] for line in lines] == list(range(1, fit.steps + 1))


def test_a_training_that_was_over_is_not_repeated(folder: Path, tmp_path: Path) -> None:
    for how in (PPO, RAFT):
        path = tmp_path / type(how).__name__
        first = train(folder, how, Heard(tmp_path / "metrics"), StageCheckpoint(path, "this", every_seconds=3600))
        again = train(folder, how, Heard(tmp_path / "metrics"), StageCheckpoint(path, "this"))
        assert_same(again[0], first[0])
        assert again[1] == first[1] and again[2] == 0 and first[2] > 0


def test_how_much_fits_the_memory_is_not_forgotten(folder: Path, tmp_path: Path) -> None:
    """What is summed up in halves is so after a kill, too, be it that all would fit now."""
    backbone = Backbone.load(folder, LEARNER)
    course = ppo._Course(backbone, Counting(), PPO, 0, KEPT, InProcessSampler(backbone))
    course.iterate(PPO.value_warmup, PROMPTS[:3], Heard(tmp_path / "metrics"))
    for one in (*course._stepper._fitting.values(), *backbone.fitting.values()):
        one.most = 3
    StageCheckpoint(tmp_path / "it").keep("course", course.state)
    other = Backbone.load(folder, LEARNER)
    again = ppo._Course(other, Counting(), PPO, 0, KEPT, InProcessSampler(other))
    again.load_state(StageCheckpoint(tmp_path / "it").part("course"))
    assert len(again._stepper._fitting) == 2
    assert {one.most for one in (*again._stepper._fitting.values(), *other.fitting.values())} == {3}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    model = build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)
    learner = LEARNER.model_copy(update={"checkpoint_minutes": 0.0, "reward_epochs": 2})
    small = {"iterations": 3, "prompts": 4, "replies": 2, "minibatch": 4, "max_new_tokens": 8}
    return Settings(
        home=model.parent, engine=EngineSettings(model=str(model)), learner=learner, ppo=PpoSettings(**small),
        raft=RaftSettings(**small),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 8)


def taught() -> Curated:
    """Comparisons alone."""
    return replace(lessons(), train=replace(lessons().train, demonstrations=()))


class Silent:
    """Writes nothing."""

    def __call__(self, *_: object) -> None:
        pass


def learn(
    settings: Settings,
    stage: Literal["ppo", "raft"],
    checkpoint: Path,
    heard: Heard | Silent,
    lessons: Curated | None = None,
) -> dict[str, Tensor]:
    trainer = BackboneTrainer(settings, None)
    trainer.train((stage,), lessons or taught(), checkpoint, heard)
    return state_of(trainer._backbone)


def test_a_run_that_is_killed_while_its_reward_model_is_fitted_goes_on_there(
    settings: Settings, tmp_path: Path
) -> None:
    straight = learn(settings, "raft", tmp_path / "straight", Heard(tmp_path / "straight.jsonl"))
    with pytest.raises(Killed):
        learn(settings, "raft", tmp_path / "broken", Heard(tmp_path / "broken.jsonl", "reward", 2))
    heard = Heard(tmp_path / "broken.jsonl")
    assert_same(learn(settings, "raft", tmp_path / "broken", heard), straight)
    lines = read_metrics(tmp_path / "broken.jsonl")
    assert lines == read_metrics(tmp_path / "straight.jsonl")
    assert heard.phases.count("reward") == len([line for line in lines if line["phase"] == "reward"])  # less one step


@pytest.mark.parametrize("stage", ["ppo", "raft"])
def test_a_run_that_is_killed_inside_its_stage_goes_on_there(
    settings: Settings, tmp_path: Path, stage: Literal["ppo", "raft"], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = learn(settings, stage, tmp_path / "straight", Heard(tmp_path / "straight.jsonl"))
    with pytest.raises(Killed):
        learn(settings, stage, tmp_path / "broken", Heard(tmp_path / "broken.jsonl", stage, 4))
    (unfinished,) = (tmp_path / "broken").iterdir()
    assert unfinished.name == f"0-{stage}.unfinished"
    assert {name.split("/")[1] for name in load_file(unfinished)} <= {"basis", stage}  # how the fit was is forgotten
    monkeypatch.setattr(reward, "fit", lambda *_: pytest.fail("The reward model is there."))
    monkeypatch.setattr(rlhf, "answers", lambda *_: pytest.fail("What the base answers is known."))
    heard = Heard(tmp_path / "broken.jsonl")
    assert_same(learn(settings, stage, tmp_path / "broken", heard), straight)
    assert set(heard.phases) == {stage}
    lines = read_metrics(tmp_path / "broken.jsonl")
    assert lines == read_metrics(tmp_path / "straight.jsonl")
    assert all(line["reward_disagreement"] > 0 for line in lines if line["phase"] == stage)
    assert {path.name for path in (tmp_path / "broken").iterdir()} == {f"0-{stage}.safetensors", TRAINED_FILE}


@pytest.mark.parametrize("changed", ["method", "learner", "snapshot", "base", "damaged", "nothing", "when"])
def test_a_stage_begins_again_where_its_checkpoint_is_of_something_else(
    settings: Settings, tmp_path: Path, changed: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, given = tmp_path / "checkpoint", taught()
    with pytest.raises(Killed):
        learn(settings, "raft", checkpoint, Heard(tmp_path / "metrics", "raft", 3))
    match changed:
        case "method":
            settings = settings.model_copy(update={"raft": settings.raft.model_copy(update={"kl_coefficient": 0.2})})
        case "learner":
            learner = settings.learner.model_copy(update={"reward_label_smoothing": 0.1})
            settings = settings.model_copy(update={"learner": learner})
        case "when":
            learner = settings.learner.model_copy(update={"max_attempts": 9, "niceness": 3})
            settings = settings.model_copy(update={"learner": learner})
        case "snapshot":
            given = replace(given, train=replace(given.train, pairs=given.train.pairs[1:]))
        case "base":
            monkeypatch.setattr("learner.backbone_trainer.fingerprint_if_known", lambda model: "another")
        case "damaged":
            path = checkpoint / "0-raft.unfinished"
            path.write_bytes(path.read_bytes()[:-1000])
    heard = Heard(tmp_path / "metrics")
    learn(settings, "raft", checkpoint, heard, given)
    goes_on = changed in ("nothing", "when")
    assert ("reward" in heard.phases) != goes_on
    assert ("is of no use, so this stage begins again" in caplog.text) != goes_on
    for phase in ("reward", "raft"):
        steps = [line["step"] for line in read_metrics(tmp_path / "metrics") if line["phase"] == phase]
        assert steps == list(range(1, len(steps) + 1))


def test_a_full_disk_costs_a_training_no_more_than_its_checkpoints(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = learn(settings, "raft", tmp_path / "straight", Silent())
    assert not caplog.records
    with no_file_above(1000):
        assert_same(learn(settings, "raft", tmp_path / "full", Silent()), straight)
    assert [path.name for path in (tmp_path / "full").iterdir()] == [TRAINED_FILE]  # which is small
    for name in ("0-raft.unfinished", "0-raft.safetensors"):
        assert caplog.text.count(f"{name} can't be written (File too large)") == 1
