"""Which replies become probes: those that tell the adapter from the base, and from the adapter before."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.backbone_trainer import BackboneTrainer
from learner.batch import Demonstration, Snapshot, collate
from learner.curate import Curated
from learner.probes import PROBES, PROBES_TRIED, _telling_most
from service.settings import EngineSettings, LearnerSettings, Settings
from tests.learner.progress import Told
from tests.learner.tiny_model import build_tiny_model, ids


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    model = build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)
    learner = LearnerSettings(rank=4, alpha=8.0, sft_epochs=6, threads=1)
    return Settings(home=model.parent, engine=EngineSettings(model=str(model)), learner=learner)


def test_what_the_parent_had_learned_already_does_not_crowd_out_what_is_new(settings: Settings, tmp_path: Path) -> None:
    known = [
        Demonstration(ids("<bos> what is " + "one " * count), ids("it is paris dear friend .", end=True), "c", "f")
        for count in range(1, 9)
    ]
    new = Demonstration(ids("<bos> what is the capital of spain ?"), ids("madrid .", end=True), "c", "f-new")
    before = BackboneTrainer(settings, None)
    before.train(("sft",), Curated(Snapshot(tuple(known)), Snapshot(), {}), tmp_path / "before", Told())
    before.save(tmp_path / "parent", Curated(Snapshot(tuple(known)), Snapshot(), {}))
    trainer = BackboneTrainer(settings, tmp_path / "parent")
    lessons = Curated(Snapshot((*known, new)), Snapshot(), {})
    trainer.train(("sft",), Curated(Snapshot((new,)), Snapshot(), {}), tmp_path / "after", Told())
    probes = trainer.probes(lessons)
    assert len(probes) == PROBES
    assert new.prompt_token_ids in [probe["prompt_token_ids"] for probe in probes]
    for role in ("base", "parent"):
        changed = 0.0
        for probe in probes:
            batch = collate([(probe["prompt_token_ids"], probe["token_ids"])], trainer._backbone.pad_id)
            other = trainer._backbone.log_probs(batch, role)[0, len(probe["prompt_token_ids"]) :].tolist()
            changed += sum((own - said) ** 2 for own, said in zip(probe["logprobs"], other, strict=True))
        assert changed > 0.1, role  # nats²: some hundred times what an engine in bfloat16 is off by


def test_the_weaker_of_two_differences_decides() -> None:
    """By hand: from the base the first four differ most, from the parent the last two alone."""
    changes = [(9.0, 0.0), (8.0, 0.0), (7.0, 0.0), (6.0, 0.0), (2.0, 1.0), (0.5, 3.0)]
    assert _telling_most(changes) == [4, 5, 0, 1]
    assert _telling_most([(1.0,), (3.0,), (2.0,)]) == [1, 2, 0]
    assert _telling_most([]) == []


def test_no_more_are_tried_than_are_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = BackboneTrainer(settings, None)
    many = [Demonstration(ids("<bos> " + "one " * count), ids("yes .", end=True), "c", "f") for count in range(80)]
    scored: list[int] = []
    whole = trainer._backbone.log_probs

    def log_probs(sequences: object, role: str = "policy") -> object:
        scored.append(len(sequences.token_ids))  # type: ignore[attr-defined]
        return whole(sequences, role)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer._backbone, "log_probs", log_probs)
    trainer.probes(Curated(Snapshot(tuple(many)), Snapshot(), {}))
    assert sum(scored) == 2 * (PROBES_TRIED + PROBES)
