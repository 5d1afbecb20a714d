"""Constitutional runs go through the cycle like any other: frozen, killed, gone on with, and told of in the lineage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from learner.batch import Demonstration, Pair, Progress
from learner.constitution.dropped import NO_ROOM
from learner.curate import NO_CONSTITUTION, Curated
from service.constitution import built_in, parse
from service.errors import NotFound, TrainingFailed
from service.store.queries import adapters, feedback, runs
from service.store.queries.exchanges import NewReply
from service.store.queries.revisions import NewRevision, add_revisions
from service.wire import Critique
from tests.fixtures.schema import check_manifest
from tests.learner.pretend_training import Killed, Pretender, cycle
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import give_back, lease, queue, the_run
from tests.learner.store_fixtures import Home, tokenize
from tests.learner.store_fixtures import home as home


class Writer(Pretender):
    """Writes an example for the run, as the trainer does, and keeps what it was asked to learn."""

    def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated:
        self.at("write")
        file = folder / "constitution.jsonl"
        self.done.append("read" if file.exists() else "wrote")
        file.write_text("{}\n")
        counts = lessons.counts | {"written": {"sha256": "e" * 64, "told_apart": len(lessons.train.ai_pairs)}}
        revised = (Demonstration((1, 2), (4, 3)),) if method == "sl-cai" else ()
        pairs = tuple(Pair((1, 2), (5, 3), (6, 3), feedback_ids=(one.feedback_id,)) for one in lessons.train.criticised)
        train = replace(lessons.train, revised=revised, criticised=(), pairs=(*lessons.train.pairs, *pairs))
        return replace(lessons, train=train, counts=counts)


def queue_by(home: Home, method: str) -> str:
    with home.store.begin() as tx:
        run, _ = runs.ask_for_run(tx, method)
    return run.id


def test_a_constitutional_run_needs_no_feedback_and_names_what_it_learned_from(home: Home) -> None:
    run_id = queue_by(home, "sl-cai")
    cycle(home, lease(home), Writer()).run()
    run = the_run(home, run_id)
    assert (run.state, run.adapter) == ("succeeded", "v1"), run.message
    assert "1 reply revised by constitution c0" in run.message
    manifest = check_manifest(home.settings.adapters_folder / "v1")
    folder = home.settings.runs_folder / run_id
    frozen = parse((folder / "constitution.toml").read_text())
    assert frozen == built_in()
    assert manifest["constitution"] == {"name": "c0", "sha256": frozen.sha256, "examples_sha256": "e" * 64}
    assert json.loads((folder / "snapshot.jsonl").read_text().splitlines()[0])["constitution"] == ["c0", frozen.sha256]
    assert json.loads((folder / "recipe.json").read_text())["constitution"]["revision_rounds"] == 2


def test_a_killed_constitutional_run_goes_on_from_what_was_written(home: Home) -> None:
    run_id = queue_by(home, "sl-cai")

    def kill(place: str) -> None:
        if place == "sl-cai 2":
            raise Killed

    leased, trainer = lease(home), Writer(kill)
    with pytest.raises(Killed):
        cycle(home, leased, trainer).run()
    give_back(home, leased)
    again = Writer()
    cycle(home, lease(home), again).run()
    assert trainer.done[0] == "wrote" and again.done[0] == "read" and the_run(home, run_id).state == "succeeded"


def test_a_constitution_that_was_changed_in_the_runs_folder_is_an_error(home: Home) -> None:
    run_id = queue_by(home, "sl-cai")

    def kill(place: str) -> None:
        raise Killed

    leased = lease(home)
    with pytest.raises(Killed):
        cycle(home, leased, Writer(kill)).run()
    give_back(home, leased)
    file = home.settings.runs_folder / run_id / "constitution.toml"
    file.write_text(file.read_text().replace("Do not help anyone to do harm.", "Do as you like."))
    with pytest.raises(TrainingFailed, match="changed since the run began"):
        cycle(home, lease(home), Writer()).run()


def test_a_critique_alone_is_learned_from(home: Home) -> None:
    told = home.judge(Critique(exchange_id=home.chat("it is Lyon"), text="It is the wrong city."))
    run_id = queue(home)
    cycle(home, lease(home), Writer()).run()
    assert the_run(home, run_id).state == "succeeded" and "1 pair of 1 person" in the_run(home, run_id).message
    with home.store.read() as tx:
        assert feedback.get_feedback(tx, "name:ann", told).learned_in == ("v1",)


@pytest.mark.parametrize(("method", "counted"), [("auto", 0), ("rl-cai", 1)])
def test_served_revisions_are_counted_where_they_are_learned_from(home: Home, method: str, counted: int) -> None:
    exchange = home.chat("I will not")
    draft, revision = (NewReply(text, "stop", tokenize(text), []) for text in ("a pin", "I will not"))
    step = NewRevision(1, "c0", "0" * 64, "no-harm", "It harms.", draft, revision, "revised", "", 0.1, 0.9)
    with home.store.begin() as tx:
        add_revisions(tx, exchange, [step])
    home.judge(Critique(exchange_id=home.chat("it is Lyon"), text="It is the wrong city."))
    run_id = queue_by(home, method)
    cycle(home, lease(home), Writer()).run()
    with home.store.read() as tx:
        adapter = adapters.get_adapter(tx, the_run(home, run_id).adapter or "")
    assert adapter is not None
    report = adapter.report
    parts = report["feedback"]["train"], report["feedback"]["held_out"]
    assert sum(part["served_revisions"] for part in parts) == counted


def test_a_critique_that_the_model_can_make_nothing_of_ends_the_run_with_the_reason(home: Home) -> None:
    class InVain(Pretender):
        def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated:
            counts = lessons.counts | {"set_aside": {NO_ROOM: 1}}
            return replace(lessons, train=replace(lessons.train, criticised=()), counts=counts)

    home.judge(Critique(exchange_id=home.chat("it is Lyon"), text="x" * 4_000))
    run_id, trainer = queue(home), InVain()
    cycle(home, lease(home), trainer).run()
    run = the_run(home, run_id)
    assert run.state == "nothing_to_learn" and NO_ROOM in run.message and "train" not in trainer.done


def with_tags(home: Home, *tags: str) -> None:
    constitution = home.settings.constitution.model_copy(update={"tags": tags})
    home.settings = home.settings.model_copy(update={"constitution": constitution})


def test_peoples_feedback_is_learned_from_though_the_constitution_has_none_of_the_tags(home: Home) -> None:
    with_tags(home, "ours")
    home.judge(Critique(exchange_id=home.chat("it is Lyon"), text="It is the wrong city."))
    home.correct("it is Lyon", "it is Paris")
    given = list[Curated]()

    class Heeding(Pretender):
        def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated:
            given.append(lessons)
            return lessons

    run_id = queue(home)
    cycle(home, lease(home), Heeding()).run()
    run = the_run(home, run_id)
    assert run.state == "succeeded" and f"1 × {NO_CONSTITUTION}" in run.message
    assert [(one.constitution, one.train.criticised) for one in given] == [(None, ())]


@pytest.mark.parametrize("method", ["sl-cai", "rl-cai"])
def test_a_constitutional_run_under_tags_that_no_principle_has_is_refused_at_its_start(home: Home, method: str) -> None:
    with_tags(home, "ours")
    queue_by(home, method)
    trainer = Writer()
    with pytest.raises(TrainingFailed, match=r"Set constitution\.tags to some of .*harmless.*, or import"):
        cycle(home, lease(home), trainer).run()
    assert trainer.done == []


def test_a_judge_that_is_no_adapter_ends_the_run_before_anything_is_learned(home: Home) -> None:
    constitution = home.settings.constitution.model_copy(update={"judge": "v7"})
    home.settings = home.settings.model_copy(update={"constitution": constitution})
    queue_by(home, "rl-cai")
    trainer = Writer()
    with pytest.raises(NotFound, match="v7"):
        cycle(home, lease(home), trainer).run()
    assert trainer.done == []
