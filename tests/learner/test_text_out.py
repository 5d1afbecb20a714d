"""The folder that a training on texts writes is tried before the training, and there as a whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from learner import on_texts
from learner.on_texts import learn, learn_reward
from learner.starting_adapter import BASE_FILE
from learner.text_out import check_out, writing_out
from learner.text_rewards import REWARD_FILE
from service.errors import BadInput, StoreError
from tests.learner.progress import Told
from tests.learner.tiny_model import build_tiny_model

PAIRS = [{"prompt": f"what is {word} ?", "chosen": "yes .", "rejected": "no ."} for word in ("one", "red")]
QUICK = {"learner": {"dpo_on": "pairs", "rank": 4, "alpha": 8.0, "reward_epochs": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), context=128)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The disk is, until this is undone."""

    def write(_: Any, path: Path, *__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    for module in ("adapted_model", "text_rewards"):
        monkeypatch.setattr(f"learner.{module}.write_tensors", write)
    return monkeypatch


@pytest.mark.parametrize("out", ["file/out", "/proc/x/y", "new/" + "x" * 300])
def test_a_folder_that_can_not_be_made_is_refused_before_anything_is_read(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_texts, "read_examples", None)
    (tmp_path / "file").touch()
    for call in (
        lambda: learn("dpo", "sprout", PAIRS, tmp_path / out),
        lambda: learn_reward("sprout", [], tmp_path / out),
    ):
        with pytest.raises(
            BadInput, match=r"^No folder can be made at .*: .+\. Name one in a place where you may write"
        ):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "new" / "er" / "out", "new/../out", "out"):
        check_out(out)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_refused_a_link_to_nothing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)
    for out in ("link", tmp_path, ""):
        with pytest.raises(BadInput, match="There is something at"):
            check_out(out)


def test_on_a_full_disk_it_is_said_what_to_do_and_nothing_is_left(
    model: Path, tmp_path: Path, full: pytest.MonkeyPatch
) -> None:
    said = r"^\S*{} can't be written: No space left on device\. Free some space .*call again: {}\.$"
    without = "give it a run_folder, which keeps on the way what is trained"
    with pytest.raises(StoreError, match=said.format("safetensors", without)):
        learn("dpo", model, PAIRS, tmp_path / "out", QUICK)
    with pytest.raises(StoreError, match=said.format("safetensors", without)):
        learn_reward(model, PAIRS, tmp_path / "out", QUICK)
    assert not list(tmp_path.iterdir())
    run, told = tmp_path / "run", Told()
    with pytest.raises(
        StoreError, match=said.format("safetensors", "it goes on from what .*run keeps of the training")
    ):
        learn("dpo", model, PAIRS, tmp_path / "out", QUICK, run_folder=run, progress=told)
    assert told.phases == ["dpo"] and [path.name for path in tmp_path.iterdir()] == ["run"]
    full.undo()
    learn("dpo", model, PAIRS, tmp_path / "out", QUICK, run_folder=run, progress=(again := Told()))
    assert again.phases == [] and (tmp_path / "out" / BASE_FILE).exists()


def test_what_a_killed_call_left_is_replaced(model: Path, tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "old").touch()
    learn_reward(model, PAIRS, tmp_path / "out", QUICK)
    assert (tmp_path / "out" / REWARD_FILE).exists() and not (tmp_path / "out" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_whatever_ends_the_writing_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing_out(tmp_path / "out", None) as unfinished:
        unfinished.mkdir()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
