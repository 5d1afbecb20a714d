"""A cycle with the real trainer, on a model of a few thousand weights."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from learner.backbone_trainer import BackboneTrainer
from learner.batch import Demonstration, Label, Pair, Scored, Snapshot
from learner.curate import Curated
from learner.loading import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from learner.methods import reward, rl_cai
from learner.methods.beside_kept import Learned
from learner.probes import PROBE_TOKENS, PROBES, make_probe
from learner.summary import learned_from
from learner.trainer import stages_of
from service.settings import EngineSettings, LearnerSettings, PpoSettings, RaftSettings, Settings
from tests.learner.lessons import ASKED, OTHERS, RIGHT, WRONG, lessons
from tests.learner.progress import Told
from tests.learner.tiny_model import build_tiny_model, ids


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    model = build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)
    learner = LearnerSettings(rank=4, alpha=8.0, sft_epochs=6, threads=1)  # sums in one order, whatever else runs
    return Settings(home=model.parent, engine=EngineSettings(model=str(model)), learner=learner)


def test_corrections_and_preferences_are_learned_one_after_the_other(settings: Settings, tmp_path: Path) -> None:
    taught, told = lessons(), Told()
    stages = stages_of("auto", taught.train)
    trainer = BackboneTrainer(settings, None)
    trainer.train(stages, taught, tmp_path / "checkpoint", told)
    assert stages == ("sft", "dpo") and told.phases[:2] == ["sft", "dpo"]
    trainer.save(tmp_path / "adapter", taught)
    report = trainer.evaluate(stages, taught, told)
    assert {gate["name"] for gate in report["gates"]} >= {"fluent", "no empty replies", "near the anchor"}
    assert report["replies"] > 0
    assert report["taught"] == len(taught.train.demonstrations)
    assert report["taught_new_log_prob"] > report["taught_new_log_prob_before"]
    probes = trainer.probes(taught)
    assert 1 <= len(probes) <= 4
    for probe in probes:
        assert len(probe["logprobs"]) == len(probe["base_logprobs"]) == len(probe["token_ids"])
        assert all(value <= 0 for value in probe["logprobs"])
    assert any(probe["logprobs"] != probe["base_logprobs"] for probe in probes)


def thumbs() -> Curated:
    """Four replies called good and four called bad; four more of each held out."""
    replies = {True: ids("yes .", end=True), False: ids("no , it is perhaps no .", end=True)}
    prompts = [*OTHERS, *(prompt[:-1] + ids("the ?") for prompt in OTHERS)]
    labels = tuple(
        Label(prompt, replies[number % 2 == 0], number % 2 == 0, f"c{number}", (f"fb-{number}",))
        for number, prompt in enumerate(prompts)
    )
    train = Snapshot(prompts=tuple(prompts[:8]), labels=labels[:8])
    return Curated(train, Snapshot(prompts=tuple(prompts[8:]), labels=labels[8:]), {})


def test_single_thumbs_are_learned_measured_and_gone_on_with_after_a_kill(settings: Settings, tmp_path: Path) -> None:
    taught, told = thumbs(), Told()
    stages = stages_of("auto", taught.train)
    trainer = BackboneTrainer(settings, None)
    trainer.train(stages, taught, tmp_path / "checkpoint", told)
    assert stages == ("kto",) and told.phases == ["kto"]
    report = trainer.evaluate(stages, taught, Told())
    assert (report["labels"], report["label_prompts"], report["pairs"]) == (8, 4, 0)
    assert report["label_accuracy"] > 0.9 and report["share_won"] is None
    assert trainer.evaluate(("sft",), taught, Told())["label_accuracy"] is None
    assert any(probe["logprobs"] != probe["base_logprobs"] for probe in trainer.probes(taught))
    again = BackboneTrainer(settings, None)
    again.train(stages, taught, tmp_path / "checkpoint", told := Told())  # whose last stage was finished
    assert not told.phases and again.probes(taught) == trainer.probes(taught)


@pytest.mark.parametrize(
    ("method", "kind"), [("ppo", "comparisons"), ("ppo", "thumbs"), ("raft", "comparisons"), ("raft", "thumbs")]
)
def test_what_follows_a_reward_learns_from_comparisons_and_from_thumbs(
    settings: Settings, tmp_path: Path, method: Literal["ppo", "raft"], kind: str
) -> None:
    taught, told = lessons() if kind == "comparisons" else thumbs(), Told()
    taught = replace(taught, train=replace(taught.train, demonstrations=()))
    stages = stages_of("auto", taught.train, method)
    small = {"iterations": 3, "prompts": 4, "replies": 2, "minibatch": 4, "max_new_tokens": 8}
    how = PpoSettings.model_validate(small) if method == "ppo" else RaftSettings.model_validate(small)
    trainer = BackboneTrainer(settings.model_copy(update={method: how}), None)
    trainer.train(stages, taught, tmp_path / "checkpoint", told)
    assert stages == (method,) and told.phases == ["reward", method]
    report = trainer.evaluate(stages, taught, Told())
    assert report["pairs"] == (2 if kind == "comparisons" else 0) and report["labels"] == (8 if kind == "thumbs" else 0)
    assert {gate["name"] for gate in report["gates"]} >= {"fluent", "near the anchor"}
    trainer.save(tmp_path / "adapter", taught)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert names and all("lora_" in name for name in names)  # nothing of reward and value is served
    assert any(probe["logprobs"] != probe["base_logprobs"] for probe in trainer.probes(taught))


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_a_tie_reaches_the_reward_model_and_a_correction_s_own_pair_does_not(
    method: Literal["ppo", "raft"], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        """The pairs are seen."""

    def fit(backbone: object, pairs: list[Pair], *rest: object) -> None:
        learned.extend(pairs)
        raise Seen

    learned: list[Pair] = []
    monkeypatch.setattr(reward, "fit", fit)
    taught = lessons()
    tie = Pair(ASKED, WRONG, RIGHT, tie=True, feedback_ids=("fb-tie",))
    own = Pair(ASKED, RIGHT, WRONG, feedback_ids=("fb-correction",))
    pairs = (*taught.train.pairs, tie, own)
    taught = replace(taught, train=replace(taught.train, pairs=pairs))
    with pytest.raises(Seen):
        BackboneTrainer(settings, None).train((method,), taught, tmp_path / "checkpoint", Told())
    assert learned == list(pairs[:-1])
    assert set(learned_from(taught, (method,))) == {name for pair in learned for name in pair.feedback_ids}


def test_what_learns_from_scores_is_measured_on_scores_that_were_held_out(settings: Settings, tmp_path: Path) -> None:
    judged = thumbs()

    def scored(labels: tuple[Label, ...]) -> tuple[Scored, ...]:
        return tuple(
            Scored(one.prompt_token_ids, one.reply_token_ids, 3.0 if one.desirable else -3.0) for one in labels
        )

    train, held_out = (replace(part, labels=(), scored=scored(part.labels)) for part in (judged.train, judged.held_out))
    taught = Curated(train, held_out, {})
    how = PpoSettings(advantages="rloo", iterations=6, prompts=8, replies=4, minibatch=16, max_new_tokens=12)
    trainer = BackboneTrainer(settings.model_copy(update={"ppo": how}), None)
    trainer.train(("ppo",), taught, tmp_path / "checkpoint", Told())
    report = trainer.evaluate(("ppo",), taught, Told())
    assert (report["scores"], report["pairs"], report["labels"]) == (8, 0, 0)
    share = report["score_accuracy"]
    assert share["decided"] == 4 and 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    (gate,) = (gate for gate in report["gates"] if gate["name"] == "agrees with scores")
    assert gate["passed"] and "make 4 pairs" in gate["reason"]
    unscored = Curated(replace(train, scored=()), held_out, {})  # nothing of it was learned from scores
    for report in (trainer.evaluate(("sft",), taught, Told()), trainer.evaluate(("ppo",), unscored, Told())):
        assert report["scores"] is None and "agrees with scores" not in {gate["name"] for gate in report["gates"]}


def test_corrections_are_put_right_after_thumbs_too(settings: Settings, tmp_path: Path) -> None:
    taught, told = thumbs(), Told()
    taught = replace(taught, train=replace(taught.train, demonstrations=lessons().train.demonstrations))
    stages = stages_of("auto", taught.train)
    BackboneTrainer(settings, None).train(stages, taught, tmp_path / "checkpoint", told)
    assert stages == ("sft", "kto") and told.phases[:2] == ["sft", "kto"]
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} >= {"2-sft-again.safetensors"}


def test_of_long_examples_the_shortest_are_probes_and_none_beyond_the_engine_s_context(settings: Settings) -> None:
    engine = settings.engine.model_copy(update={"max_model_len": 200})
    trainer = BackboneTrainer(settings.model_copy(update={"engine": engine}), None)
    prompts = [ASKED + ids("one " * count) for count in (400, 150, 100, 180, 120)]
    replies = [RIGHT, RIGHT, RIGHT, ids("two " * 100), RIGHT]
    taught = [Demonstration(prompt, reply, "c", "f") for prompt, reply in zip(prompts, replies, strict=True)]
    probes = trainer.probes(Curated(Snapshot(tuple(taught)), Snapshot(), {}))
    assert [probe["prompt_token_ids"] for probe in probes] == [prompts[2], prompts[4], prompts[1]]
    (long,) = trainer.probes(Curated(Snapshot((Demonstration(ASKED, ids("two " * 300), "c", "f"),)), Snapshot(), {}))
    assert len(long["token_ids"]) == PROBE_TOKENS


def test_probes_are_what_training_changed_most(settings: Settings, tmp_path: Path) -> None:
    trainer = BackboneTrainer(settings, None)
    prompts = [ids("<bos> what is " + "one " * count) for count in range(1, 9)]
    replies = [RIGHT if count % 2 else WRONG for count in range(8)]
    taught = [Demonstration(prompt, reply, "c", "f") for prompt, reply in zip(prompts, replies, strict=True)]
    told = Curated(Snapshot(tuple(taught[1::2])), Snapshot(), {})  # half of them are trained on
    trainer.train(("sft",), told, tmp_path / "checkpoint", Told())
    probes = trainer.probes(Curated(Snapshot(tuple(taught)), Snapshot(), {}))

    def change(probe: dict[str, Any]) -> float:
        return float(
            sum((own - base) ** 2 for own, base in zip(probe["logprobs"], probe["base_logprobs"], strict=True))
        )

    every = [make_probe(trainer._backbone, one.prompt_token_ids, one.reply_token_ids) for one in taught]
    assert sorted(map(change, probes)) == sorted(map(change, every))[-PROBES:]
    assert min(map(change, probes)) > 0


def test_held_out_judgements_are_counted_but_for_what_was_taught(settings: Settings, tmp_path: Path) -> None:
    taught = lessons()
    correction = Pair(ASKED, RIGHT, WRONG, conversation_id="held", feedback_ids=("fb-held",))
    taught = replace(taught, held_out=replace(taught.held_out, pairs=(*taught.held_out.pairs, correction)))
    trainer = BackboneTrainer(settings, None)
    both, sft_alone = (trainer.evaluate(stages, taught, Told()) for stages in (("sft", "dpo"), ("sft",)))
    for report in both, sft_alone:
        assert (report["pairs"], report["pair_prompts"]) == (2, 2)  # the corrected one was trained on
        assert report["judge_accuracy"] is not None
    assert both["pair_accuracy"] is not None and sft_alone["pair_accuracy"] is None


def test_a_killed_training_goes_on_after_the_last_stage_it_finished(settings: Settings, tmp_path: Path) -> None:
    taught, checkpoint = lessons(), tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        BackboneTrainer(settings, None).train(("sft", "dpo"), taught, checkpoint, Told("dpo"))
    told = Told()
    resumed = BackboneTrainer(settings, None)
    resumed.train(("sft", "dpo"), taught, checkpoint, told)
    assert told.phases[0] == "dpo"
    assert (checkpoint / "anchor.safetensors").exists()  # of people's pairs
    straight = BackboneTrainer(settings, None)
    straight.train(("sft", "dpo"), taught, tmp_path / "other", Told())
    for trainer, name in ((resumed, "resumed"), (straight, "straight")):
        trainer.save(tmp_path / name, taught)
    one, other = (load_file(tmp_path / name / ADAPTER_WEIGHTS) for name in ("resumed", "straight"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_run_on_the_snapshot_computes_none_of_the_anchors_numbers_again(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And learns the same as if it had."""
    learner = settings.learner.model_copy(update={"dpo_on": "pairs"})
    settings = settings.model_copy(update={"home": tmp_path, "learner": learner})
    taught = lessons()

    def learned(name: str) -> dict[str, torch.Tensor]:
        trainer = BackboneTrainer(settings, None)
        trainer.train(("dpo",), taught, tmp_path / name, Told())
        return trainer._backbone.adapter_state()

    with caplog.at_level(logging.INFO, logger="hone.learner"):
        one = learned("one")
        assert "found on disk" not in caplog.text
        other = learned("other")
    assert f"found on disk: {2 * len(taught.train.pairs)}." in caplog.text
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_goes_on_after_training_has_the_trained_weights(settings: Settings, tmp_path: Path) -> None:
    taught = lessons()
    trained = BackboneTrainer(settings, None)
    trained.train(("sft",), taught, tmp_path / "checkpoint", Told())
    trained.save(tmp_path / "adapter", taught)
    restored = BackboneTrainer(settings, None)
    restored.restore(tmp_path / "adapter")
    assert restored.probes(taught) == trained.probes(taught)


def test_the_next_training_starts_from_its_parent(settings: Settings, tmp_path: Path) -> None:
    taught = lessons()
    first = BackboneTrainer(settings, None)
    first.train(("sft",), taught, tmp_path / "checkpoint", Told())
    first.save(tmp_path / "v1", taught)
    BackboneTrainer(settings, tmp_path / "v1").save(tmp_path / "v2", taught)
    before, after = (load_file(tmp_path / name / ADAPTER_WEIGHTS) for name in ("v1", "v2"))
    assert after.keys() == before.keys() and all(torch.equal(one, before[name]) for name, one in after.items())


def test_a_parent_of_another_rank_is_trained_at_its_own(settings: Settings, tmp_path: Path) -> None:
    taught = lessons()
    BackboneTrainer(settings, None).save(tmp_path / "v1", taught)
    wider = settings.model_copy(update={"learner": settings.learner.model_copy(update={"rank": 8})})
    child = BackboneTrainer(wider, tmp_path / "v1")
    child.train(("sft",), taught, tmp_path / "checkpoint", Told())
    child.save(tmp_path / "v2", taught)
    before, after = (load_file(tmp_path / name / ADAPTER_WEIGHTS) for name in ("v1", "v2"))
    assert {name: one.shape for name, one in after.items()} == {name: one.shape for name, one in before.items()}
    assert json.loads((tmp_path / "v2" / ADAPTER_CONFIG).read_text())["r"] == settings.learner.rank == 4
    assert any(not torch.equal(one, before[name]) for name, one in after.items())


@pytest.mark.parametrize(("reasoned", "sure", "even"), [(False, 0.9, 0.6), (True, 0.6, 0.53)])
def test_what_a_judge_does_not_tell_apart_takes_nothing_of_peoples_share(
    reasoned: bool, sure: float, even: float, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = settings.constitution.model_copy(update={"judge_reasoned": reasoned})
    settings = settings.model_copy(update={"constitution": how})
    learned: list[Pair] = []

    def learn(backbone: object, pairs: list[Pair], *rest: object) -> Learned:
        learned.extend(pairs)
        return Learned(0, len(pairs), 0, 0, 0)

    monkeypatch.setattr(rl_cai, "train", learn)
    taught = lessons()
    people = {pair.prompt_token_ids for pair in taught.train.pairs}
    ai = [Pair(ASKED, RIGHT, WRONG, certainty=sure if number < 4 else even) for number in range(40)]
    with_ai = replace(taught, train=replace(taught.train, ai_pairs=tuple(ai)))
    BackboneTrainer(settings, None).train(("rl-cai",), with_ai, tmp_path / "checkpoint", Told())
    of_people = sum(pair.weight for pair in learned if pair.prompt_token_ids in people)
    assert len(learned) == len(people) + 8
    assert of_people / sum(pair.weight for pair in learned) == pytest.approx(settings.constitution.human_share)
