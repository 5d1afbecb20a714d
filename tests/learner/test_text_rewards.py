"""A reward model of texts by itself, in five lines: fitted, kept, loaded and asked, and what is said of bad input."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from learner.on_texts import learn, learn_reward
from learner.starting_adapter import BASE_FILE
from learner.text_rewards import REWARD_FILE, REWARD_WEIGHTS, TextRewards
from service.errors import AdapterBroken, BadInput, SettingsError
from tests.learner.killed import Killed, assert_same
from tests.learner.progress import Told
from tests.learner.tiny_model import build_tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "learning.md").read_text(encoding="utf-8")
WORDS = ("one", "two", "three", "four", "five", "six", "blue", "red")
PAIRS: list[dict[str, Any]] = [
    {"prompt": f"what is {word} ?", "chosen": "yes .", "rejected": "no , it is no ."} for word in WORDS
]
ASKED = [("what is one ?", "yes ."), ("what is one ?", "no , it is no .")]
QUICK = {"learner": {"rank": 4, "alpha": 8.0, "reward_members": 2, "reward_learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), context=128)


@pytest.fixture(scope="module")
def kept(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learn_reward(model, PAIRS, folder := tmp_path_factory.mktemp("learned") / "reward", QUICK)
    return folder


def copied(folder: Path, out: Path) -> Path:
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    return out


def test_the_documented_lines_fit_keep_load_and_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "print(rewards" in block]
    assert len(shown) == 2 and all(len([line for line in lines.splitlines() if line]) <= 5 for lines in shown)
    monkeypatch.chdir(tmp_path)
    for lines in shown:
        exec(compile(lines, "docs/learning.md", "exec"), {"__name__": "by_hand"})
    printed, of_the_kept = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert printed[0] > printed[1]  # what is like the reply that was chosen
    assert of_the_kept == pytest.approx(printed, abs=1e-5)


def test_a_killed_fit_goes_on_to_what_the_unbroken_one_comes_to(model: Path, kept: Path, tmp_path: Path) -> None:
    how = {"learner": {**QUICK["learner"], "checkpoint_minutes": 0}}
    out, run, steps = tmp_path / "out", tmp_path / "run", list[int]()

    def dies(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        learn_reward(model, PAIRS, out, how, dies, run)
    assert not out.exists()
    with pytest.raises(BadInput, match=r"holds a run with another recipe \(data\)"):
        learn_reward(model, PAIRS[1:], out, how, run_folder=run)
    with pytest.raises(BadInput, match=r"holds a run with another recipe \(.*method"):
        learn("rloo", model, PAIRS, tmp_path / "policy", how, run_folder=run)
    learn_reward(model, PAIRS, out, how, lambda _, step, *__: steps.append(step), run)
    assert steps[1:] and min(steps[1:]) >= 2
    assert_same(*(load_file(folder / REWARD_WEIGHTS) for folder in (kept, out)))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, steps[-1] + 1))
    assert {"curves.png", "tensorboard", "checkpoint", "recipe.json"} <= {path.name for path in run.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "run"}


def test_what_was_kept_says_the_same_and_the_same_seed_fits_the_same(model: Path, kept: Path, tmp_path: Path) -> None:
    told = Told()
    again = learn_reward(str(model), PAIRS, tmp_path / "again", QUICK, told)
    loaded = TextRewards.load(str(kept), model)
    better, worse = again.score(ASKED)
    assert better > worse + 0.5
    assert loaded.score(ASKED) == pytest.approx([better, worse], abs=1e-5)
    assert loaded.fit == again.fit and (loaded.fit.pairs, loaded.fit.members) == (len(WORDS), 2)
    assert loaded.grade(ASKED).disagreement.shape == (2,)
    assert set(told.phases) == {"reward"}
    first, second = (load_file(folder / REWARD_WEIGHTS) for folder in (kept, tmp_path / "again"))
    assert all(bool((first[name] == second[name]).all()) for name in first)
    loaded.save(tmp_path / "once-more")
    assert TextRewards.load(tmp_path / "once-more", model).score(ASKED) == loaded.score(ASKED)


def test_it_learns_from_every_kind_of_judgement_and_says_what_is_left_out(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        *PAIRS,
        {"prompt": "what is it ?", "order": ["yes .", "no .", "it ."]},
        {"prompt": "what ?", "reply": "yes .", "good": True},
        {"prompt": "it ?", "reply": "yes .", "score": 9},
        {"prompt": "what ?", "reply": "it is red ."},
        {"prompt": "what is one ?", "chosen": "yes . " * 99, "rejected": "no ."},
    ]
    with caplog.at_level(logging.WARNING, "hone.learner"):
        fit = learn_reward(model, rows, tmp_path / "out", QUICK).fit
    assert (fit.pairs, fit.labels, fit.scores) == (len(WORDS) + 3, 1, 1)
    assert "1 example is left out: longer than the model's context of 128" in caplog.text
    assert "1 example is left out: of a kind that a reward model doesn't learn from" in caplog.text


def test_what_can_not_be_fitted_is_told_and_nothing_is_written(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="There is nothing in the data that a reward model learns from"):
        learn_reward(model, [{"prompt": "what ?", "reply": "it is red ."}], out)
    with pytest.raises(BadInput, match="Example 1: beside prompt it has reply"):
        learn_reward(model, [{"prompt": "what ?", "chosen": "yes ."}], out)
    with pytest.raises(BadInput, match="No model is named"):
        learn_reward(" ", PAIRS, out)
    with pytest.raises(BadInput, match=r"There is no model folder \./sprut"):
        learn_reward("./sprut", PAIRS, out)
    with pytest.raises(SettingsError, match=r"learner\.rang"):
        learn_reward(model, PAIRS, out, {"learner": {"rang": 4}})
    with pytest.raises(BadInput, match="There is something at"):
        learn_reward(model, PAIRS, tmp_path)
    assert not out.exists()


def test_what_can_not_be_scored_is_told_by_its_number(model: Path, kept: Path) -> None:
    rewards = TextRewards.load(kept, model)
    with pytest.raises(
        BadInput, match="Example 2: with its prompt it is longer than the model's context of 128 tokens"
    ):
        rewards.score([ASKED[0], ("what ?", "yes . " * 99)])
    with pytest.raises(BadInput, match="Example 1: prompt: it is text, or a list of messages"):
        rewards.score([(3, "yes .")])  # type: ignore[list-item]
    with pytest.raises(BadInput, match="Example 1: reply"):
        rewards.score([("what ?", 3)])  # type: ignore[list-item]
    assert rewards.score([]) == [] and len(rewards.score([("what ?", "")])) == 1


def test_a_folder_that_is_no_reward_model_or_of_another_base_is_refused(
    model: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, said in ((tmp_path, "holds no reward model"), (tmp_path / "nowhere", "is no folder")):
        with pytest.raises(
            AdapterBroken, match=rf"{said}: .* Name a folder that `learn_reward` wrote, or let it write"
        ):
            TextRewards.load(folder, model)
    with pytest.raises(BadInput, match="There is no model folder"):
        TextRewards.load(kept, "./sprut")
    cut = copied(kept, tmp_path / "cut")
    weights = load_file(kept / REWARD_WEIGHTS)
    save_file(dict(list(weights.items())[1:]), cut / REWARD_WEIGHTS)
    with pytest.raises(AdapterBroken, match=r"reward\.safetensors"):
        TextRewards.load(cut, model)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] * float("nan")}, cut / REWARD_WEIGHTS)
    with pytest.raises(AdapterBroken, match=rf"reward\.safetensors has weights that aren't finite: .* in {name}"):
        TextRewards.load(cut, model)
    save_file({name: tensor * 1e30 for name, tensor in weights.items()}, cut / REWARD_WEIGHTS)
    with pytest.raises(AdapterBroken, match="gives 2 of 2 replies no finite score"):
        TextRewards.load(cut, model).score(ASKED)
    (cut / REWARD_WEIGHTS).write_bytes(b"cut")
    with pytest.raises(AdapterBroken, match=r"reward\.safetensors can't be loaded: .* copy it again .* or fit"):
        TextRewards.load(cut, model)
    (cut / REWARD_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(AdapterBroken, match=r"(?s)reward\.json can't be read: .* copy it again"):
        TextRewards.load(cut, model)
    strange = copied(kept, tmp_path / "strange")
    base = json.loads((strange / BASE_FILE).read_text(encoding="utf-8"))
    (strange / BASE_FILE).write_text(json.dumps(base | {"sha256": "0" * 64}), encoding="utf-8")
    monkeypatch.setattr("learner.backbone.load_base", None)  # nothing is loaded in vain
    with pytest.raises(BadInput, match="was made for another base model"):
        TextRewards.load(strange, model)
