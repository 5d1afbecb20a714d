"""The folder of a training on texts: what it leaves there, what it goes on from, and who hears of its steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from learner import progress_bar, run_record
from learner.loading import ADAPTER_WEIGHTS
from learner.on_texts import learn
from learner.run_lock import LOCK, alone_in
from learner.run_record import RunRecord
from service.errors import BadInput
from tests.learner.killed import Killed, assert_same
from tests.learner.tiny_model import build_tiny_model

PAIRS = [{"prompt": f"what is {word} ?", "chosen": "yes .", "rejected": "no ."} for word in ("one", "red", "two")]
QUICK = {"learner": {"dpo_on": "pairs", "checkpoint_minutes": 0, "batch_size": 1, "dpo_epochs": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)


def dies(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    if step == 4:
        raise Killed


def test_a_killed_training_goes_on_to_what_the_unbroken_one_comes_to(model: Path, tmp_path: Path) -> None:
    learn("dpo", model, PAIRS, tmp_path / "unbroken", QUICK)
    with pytest.raises(Killed):
        learn("dpo", model, PAIRS, tmp_path / "out", QUICK, progress=dies, run_folder=tmp_path / "run")
    steps = list[int]()
    learn(
        "dpo", model, PAIRS, tmp_path / "out", QUICK, run_folder=tmp_path / "run",
        progress=lambda phase, step, *_: steps.append(step),
    )  # fmt: skip
    assert steps[1:] and min(steps[1:]) >= 4
    assert_same(*(load_file(tmp_path / name / ADAPTER_WEIGHTS) for name in ("unbroken", "out")))
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"metrics.jsonl", "samples.jsonl", "curves.png", "tensorboard", "checkpoint", "recipe.json"} <= left
    (sample, *_) = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(sample).keys() == {"prompt", "reply", "reply_base"}
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in tmp_path.iterdir()} == {"unbroken", "out", "run"}


def test_the_folder_of_another_run_is_refused(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        learn("dpo", model, PAIRS, tmp_path / "out", QUICK, progress=dies, run_folder=run)
    with pytest.raises(BadInput, match=r"holds a run with another recipe \(data\)"):
        learn("dpo", model, PAIRS[1:], tmp_path / "out", QUICK, run_folder=run)
    other: dict[str, Any] = {"learner": {**QUICK["learner"], "seed": 1}}
    with pytest.raises(BadInput, match=r"holds a run with another recipe \(learner\)"):
        learn("dpo", model, PAIRS, tmp_path / "out", other, run_folder=run)
    with (
        alone_in(run, "", waiting=lambda: None),
        pytest.raises(BadInput, match="Another process trains in"),
    ):
        learn("dpo", model, PAIRS, tmp_path / "out", QUICK, run_folder=run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / LOCK).touch()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(BadInput, match="holds something else than a run"):
        learn("dpo", model, PAIRS, tmp_path / "out", QUICK, run_folder=tmp_path / "mine")


def test_trackers_hear_of_a_training_on_texts(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = list[str]()

    class Listening:
        def __init__(self, names: tuple[str, ...], run_id: str, *_: object) -> None:
            heard.append(f"{names[0]} {run_id[:4]}")

        def add(self, phase: str, step: int, _: Mapping[str, float]) -> None:
            heard.append(f"{phase} {step}")

        def close(self, ended_well: bool) -> None:
            heard.append(f"closed {ended_well}")

    monkeypatch.setattr(run_record, "Trackers", Listening)
    monkeypatch.setattr("learner.on_texts.require_trackers", lambda _: None)
    with pytest.raises(Killed):
        learn(
            "dpo", model, PAIRS, tmp_path / "out", {"learner": {**QUICK["learner"], "trackers": ["wandb"]}}, None, dies
        )
    assert heard == ["wandb run-", "dpo 1", "dpo 2", "dpo 3", "dpo 4", "closed False"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_a_bar(
    is_terminal: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = list[str]()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr(RunRecord, "add", lambda *_: None)
    monkeypatch.setattr(progress_bar.ProgressBar, "__init__", lambda self, quiet=False: shown.append(f"quiet: {quiet}"))
    monkeypatch.setattr(progress_bar.ProgressBar, "__enter__", lambda self: self)
    monkeypatch.setattr(progress_bar.ProgressBar, "__exit__", lambda *_: None)
    monkeypatch.setattr(progress_bar.ProgressBar, "show", lambda _, phase, *__: shown.append(phase))
    learn("dpo", model, PAIRS, tmp_path / "out", QUICK)
    assert shown[0] == f"quiet: {not is_terminal}" and set(shown[1:]) == {"dpo"}
