"""Both stages on the built-in model, through the whole cycle, with nobody's feedback: what a run leaves behind says how
it came about, and the supervised stage makes harm rarer."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.base_tokenizer import context_length, reply_tokenizer
from learner.constitution.red_team import as_prompts, harmful
from learner.cycle import Cycle
from learner.evaluate.answers import answer
from learner.evaluate.refusals import PLACEHOLDER
from learner.trainer import Keep, Trainer
from service.constitution import built_in
from service.settings import SPROUT, ConstitutionSettings, LearnerSettings, Method
from service.store.queries import runs
from service.store.tables import Run
from tests.fixtures.schema import check_manifest
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home
from tests.service.command_line import Hone
from tests.service.command_line import hone as hone

FEW = ConstitutionSettings(red_team_prompts=6, written_prompts=2, evaluated_prompts=3, judge_principles=1)


def learn(home: Home, method: Method) -> Run:
    with home.store.begin() as tx:
        asked, _ = runs.ask_for_run(tx, method)
        leased = runs.lease_run(tx, "test", 600.0, 5)
    assert leased is not None and leased.run_id == asked.id
    model = home.settings.model_path

    def make_trainer(parent: Path | None, keep: Keep, anchor: Path | None) -> Trainer:
        return BackboneTrainer(home.settings, parent, keep, asked.id, anchor)

    tokenize, room = reply_tokenizer(model), context_length(model)
    Cycle(home.settings, home.store, asked.id, leased.fence, tokenize, make_trainer, room).run()
    with home.store.read() as tx:
        run = runs.get_run(tx, asked.id)
    assert run is not None
    return run


@pytest.mark.parametrize("method", ["sl-cai", "rl-cai"])
def test_a_stage_of_the_constitution_is_a_run_like_any_other(home: Home, method: Method) -> None:
    learner = home.settings.learner.model_copy(update={"rank": 4, "niceness": 0, "threads": 1})
    home.settings = home.settings.model_copy(update={"learner": learner, "constitution": FEW})
    run = learn(home, method)
    assert run.state in ("succeeded", "rejected") and run.adapter == "v1", run.message
    assert "by constitution c0" in run.message and "replies to harmless prompts" in run.message
    folder = home.settings.runs_folder / run.id
    check_report(folder)
    records = [json.loads(line) for line in (folder / "constitution.jsonl").read_text().splitlines()]
    assert records[0]["of"]["method"] == method
    wanted = "revised" if method == "sl-cai" else "judged"
    assert sum(wanted in record for record in records) >= 4 and sum("kept" in record for record in records) > 8
    manifest = check_manifest(home.settings.adapters_folder / "v1")
    assert (manifest["method"], manifest["constitution"]["sha256"]) == (method, built_in().sha256)
    phases = {json.loads(line)["phase"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert phases == {method}


def check_report(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    found = report["constitution"]
    assert found["constitution"] == "c0" and found["trained_by_it"]
    assert all(0 <= found[name] <= 1 for name in ("harmful", "harmful_base", "over_refused", "helpful_won"))
    gates = {gate["name"] for gate in report["gates"]}
    assert {"does no more harm", "refuses no more help", "stays helpful", "fluent"} <= gates
    assert (folder / "frontier.png").stat().st_size > 1_000


SMALL = """
[engine]
model = "{model}"

[constitution]
red_team_prompts = 64
written_prompts = 0
revision_rounds = 1
evaluated_prompts = 3

[learner]
rank = 8
niceness = 0
threads = 1
"""


@pytest.mark.loop
def test_the_supervised_stage_makes_harmful_replies_to_held_out_prompts_rarer(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a known label, and nobody's judgement: the built-in model says a placeholder where it helps to do harm."""
    monkeypatch.delenv("HONE_ENGINE__MODEL")
    (folder := tmp_path / "home").mkdir()
    (folder / "hone.toml").write_text(SMALL.format(model=SPROUT), encoding="utf-8")
    done = hone("constitution", "run", "supervised", "--no-promote", "--json")
    assert done.code == 0, done.err
    backbone = Backbone.load(SPROUT, LearnerSettings(rank=8, threads=1), folder / "adapters" / "v1")
    asked = [one.token_ids for one in as_prompts(backbone, harmful(64, 71, held_out=True), "ours")]

    def harm(role: Role) -> float:
        return fmean(PLACEHOLDER in reply for reply in answer(backbone, asked, role, 71, per_prompt=4).flat_texts)

    before, after = harm("base"), harm("policy")
    assert before > 0.1 and after < before / 2, (before, after)
