"""Before a training learns anything, the engines that are to sample for it are asked whether they ever could."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Snapshot
from learner.rollout_engines import Engines, check_engines
from service.adapters.engine import EngineFacts
from service.errors import TrainingFailed
from service.settings import (
    EngineSettings,
    LearnerSettings,
    PpoSettings,
    RolloutSettings,
    Settings,
)
from tests.learner.engine_sampling import engines
from tests.learner.lessons import lessons
from tests.learner.pretend_engine import PretendEngine
from tests.learner.progress import Told

URL = "http://engine-0"
LENGTH, RANK = 64, 4


@pytest.fixture
def engine(folder: Path) -> PretendEngine:
    return PretendEngine(Backbone.load(folder, LearnerSettings(rank=RANK)))


def terms(**more: Any) -> Engines:
    return replace(Engines((URL,), Path("/passing"), slots=8, serving=(URL,), reserved=4), **more)


@pytest.mark.parametrize(
    ("facts", "engines", "said"),
    [
        ({"has_lora": False}, terms(), "can't load adapters while it runs.*--enable-lora"),
        ({"loads_adapters": False}, terms(), "can't load adapters while it runs.*RUNTIME_LORA_UPDATING"),
        ({"context": 63}, terms(), r"takes 63 tokens .* reckons with 64.*--max-model-len.*engine.max_model_len = 63"),
        ({"rank": 3}, terms(), "takes adapters up to rank 3, and the policy's is 4"),
        ({"slots": 4}, terms(), "has 4 slots for adapters, and 5 are needed: live, canary.*--max-loras 5"),
        ({"slots": 99}, terms(slots=4), "has 4 slots for adapters, and 5 are needed"),
        ({}, terms(slots=4), "has 4 slots for adapters, and 5 are needed"),
        ({"slots": 0}, terms(serving=()), r"has 0 slots for adapters, and 1 are needed\."),
    ],
)
def test_what_an_engine_can_never_do_is_said_with_what_to_do(facts: Any, engines: Engines, said: str) -> None:
    with pytest.raises(TrainingFailed, match=f"The engine at {URL} {said}"):
        engines.require(URL, EngineFacts("tiny", **facts), LENGTH, RANK)
        engines.require_slots(URL, EngineFacts("tiny", **facts))


def test_an_engine_that_can_is_asked_for_no_more_and_one_that_keeps_silent_is_believed() -> None:
    able = EngineFacts("tiny", has_lora=True, loads_adapters=True, slots=5, rank=4, context=64)
    for facts in (able, EngineFacts("tiny")):
        terms().require(URL, facts, LENGTH, RANK)
        terms().require_slots(URL, facts)
    terms(serving=()).require_slots(URL, replace(able, slots=1))  # of its own: nothing is served beside
    assert terms().slots_of(able) == 5 and terms(slots=3).slots_of(able) == 3
    assert terms().slots_of(replace(able, slots=None)) == 8


def test_every_engine_that_answers_is_looked_at_and_one_that_is_away_keeps_no_training(
    engine: PretendEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = PretendEngine(engine.backbone, away=True)
    check_engines(engines(tmp_path, away, engine), LENGTH, RANK)
    assert "What the engine at http://engine-0 can do isn't known yet." in caplog.text
    engine.tells_slots = 0
    with pytest.raises(TrainingFailed, match="engine at http://engine-1 has 0 slots"):
        check_engines(engines(tmp_path, away, engine), LENGTH, RANK)
    engine.tells_slots, engine.context = None, 40
    with pytest.raises(TrainingFailed, match="engine at http://engine-1 takes 40 tokens"):
        check_engines(engines(tmp_path, away, engine), LENGTH, RANK)


@pytest.fixture
def run(folder: Path, engine: PretendEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begin a training of two stages, the second of which samples from the pretended engine; what it heard so far."""

    def begin(rollouts: str = "engine", **of_engine: Any) -> list[str]:
        settings = Settings(
            home=tmp_path,
            engine=EngineSettings(model=str(folder), urls=(URL,), **of_engine),
            learner=LearnerSettings.model_validate({"rank": RANK, "threads": 1, "rollouts": rollouts, "sft_epochs": 1}),
            rollout=RolloutSettings(keep_loaded=3),
            ppo=PpoSettings(iterations=1, value_warmup=0, prompts=2, replies=2, max_new_tokens=8),
        )
        mine, told = Engines.of(settings), Told(dies_in="ppo")
        pretended = {name: value for name, value in vars(mine).items() if name not in ("urls", "folder", "slots")}
        monkeypatch.setattr(
            Engines, "of", lambda _: replace(engines(tmp_path, engine, **pretended), slots=mine.slots), raising=True
        )
        taught = replace(lessons(), held_out=Snapshot())
        trainer = BackboneTrainer(settings, None)
        begin.phases = told.phases  # type: ignore[attr-defined]  # what was heard, also where it raises
        trainer.train(("sft", "ppo"), taught, tmp_path / "checkpoint", told)
        return told.phases

    return begin


@pytest.mark.parametrize(
    ("tells", "context", "of_engine", "said"),
    [
        (5, 64, {}, "has 5 slots for adapters, and 6 are needed"),
        (None, 64, {"max_loras": 5}, "has 5 slots for adapters, and 6 are needed"),
        (8, 40, {}, "takes 40 tokens of prompt and reply"),
        (8, 64, {"max_model_len": 8}, r"leaves room for a reply in a context of 8 tokens.*raise engine\.max_model_len"),
    ],
)
def test_a_run_that_could_never_sample_is_refused_before_its_first_stage(
    run: Any, engine: PretendEngine, tells: int | None, context: int, of_engine: dict[str, int], said: str
) -> None:
    engine.tells_slots, engine.context = tells, context
    with pytest.raises(TrainingFailed, match=said):
        run(**of_engine)
    assert run.phases == []


def test_a_later_attempt_at_a_run_knows_which_prompts_engines_went_away_over(
    run: Any, engine: PretendEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "suspects.json").write_text('{"left_out": [[0, 5]], "asked": [[0, 5], [0, 6]]}')
    engine.tells_slots = 5  # so it goes no further
    with caplog.at_level(logging.INFO, logger="hone.learner"), pytest.raises(TrainingFailed, match="has 5 slots"):
        run()
    assert "engines went away over them in an earlier attempt: 1 prompt." in caplog.text


def test_a_run_that_can_begins_and_one_whose_trainer_samples_asks_no_engine(run: Any, engine: PretendEngine) -> None:
    engine.tells_slots = 6
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run.phases == ["sft", "reward"]


def test_a_trainer_that_samples_itself_asks_no_engine(run: Any, engine: PretendEngine) -> None:
    engine.tells_slots, engine.context = 0, 8
    with pytest.raises(KeyboardInterrupt):
        run(rollouts="trainer")
    assert run.phases == ["sft", "reward"]
