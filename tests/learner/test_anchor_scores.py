"""The anchor's log-probabilities are computed once, also for later runs, and are never those of another."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Example
from learner.methods import kept_scores
from learner.methods.anchor_scores import AnchorScores, shared_scores
from tests.learner.tiny_backbone import EXAMPLES, SETTINGS, moved
from tests.learner.tiny_model import build_tiny_model, ids

MORE = [(ids("<bos> two"), ids("one", end=True)), *EXAMPLES, (ids("<bos>"), ids("two one", end=True))]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return moved(Backbone.load(build_tiny_model(tmp_path_factory.mktemp("tiny")), SETTINGS))


@pytest.fixture
def scored(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """All that the backbone is asked to score, in order."""
    asked: list[Example] = []
    score = backbone.score

    def heard(examples: Sequence[Example], role: Role, batch_size: int = 64) -> torch.Tensor:
        asked.extend(examples)
        return score(examples, role, batch_size)

    monkeypatch.setattr(backbone, "score", heard)
    return asked


def test_each_is_computed_once_and_comes_in_the_order_asked(backbone: Backbone, scored: list[Example]) -> None:
    expected = backbone.score(MORE, "anchor")
    scored.clear()
    anchor = AnchorScores(backbone)
    torch.testing.assert_close(anchor.of(MORE[:2]), expected[:2])
    torch.testing.assert_close(anchor.of([*MORE, MORE[0]]), torch.cat([expected, expected[:1]]))
    assert scored == MORE
    assert anchor.of([]).shape == (0,)


def test_a_run_that_goes_on_computes_none_again(backbone: Backbone, scored: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "anchor.safetensors"
    first = AnchorScores(backbone, path, "base one").of(MORE)
    scored.clear()
    assert torch.equal(AnchorScores(backbone, path, "base one").of(MORE[::-1]), first.flip(0))
    assert not scored
    assert [file.name for file in tmp_path.iterdir()] == ["anchor.safetensors"]


@pytest.mark.parametrize("fault", ["another anchor", "cut", "empty", "other tensors", "other shapes", "a flipped bit"])
def test_a_file_of_no_use_is_written_anew(
    backbone: Backbone, scored: list[Example], tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    path = tmp_path / "anchor.safetensors"
    expected = AnchorScores(backbone, path, "base one").of(MORE)
    kept = load_file(path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault != "another anchor":
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        changed = {"other shapes": {"digests": kept["digests"][1:]}, "a flipped bit": {"scores": -kept["scores"]}}
        kept |= changed.get(fault, {})
        save_file({"weights": kept["scores"]} if fault == "other tensors" else kept, path, metadata)
    scored.clear()
    asked = "base two" if fault == "another anchor" else "base one"
    with caplog.at_level(logging.WARNING, logger="hone.learner"):
        torch.testing.assert_close(AnchorScores(backbone, path, asked).of(MORE), expected)
    assert scored == MORE and "written anew" in caplog.text
    scored.clear()
    AnchorScores(backbone, path, asked).of(MORE)
    assert not scored


def test_a_file_that_can_not_be_written_is_told_of_and_done_without(
    backbone: Backbone, scored: list[Example], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = AnchorScores(backbone, tmp_path / "gone" / "anchor.safetensors", "sprout")
    with caplog.at_level(logging.WARNING, logger="hone.learner"):
        first, again = kept.of(MORE), kept.of([*MORE, (ids("<bos>"), ids("three", end=True))])
    assert torch.equal(first, again[: len(MORE)])
    assert [record.message for record in caplog.records if "can't be written" in record.message] == [
        caplog.records[0].message
    ]


def test_another_run_on_the_snapshot_gets_the_numbers_that_it_would_have_computed(
    backbone: Backbone, scored: list[Example], tmp_path: Path
) -> None:
    def run(name: str, snapshot: str = "this") -> AnchorScores:
        shared = shared_scores(backbone, tmp_path / "anchor", "base one", snapshot)
        (tmp_path / name).mkdir()
        return AnchorScores(backbone, tmp_path / name / "anchor.safetensors", "base one", shared)

    first = run("first")
    expected = first.of(MORE[:2]), first.of(MORE)
    assert first.found == 0
    scored.clear()
    second = run("second")
    assert torch.equal(second.of(MORE[:2]), expected[0]) and torch.equal(second.of(MORE), expected[1])
    assert (second.found, scored) == (len(MORE), [])
    other_batches = run("third")
    other_batches.of(MORE[::-1])  # what they are scored together with decides the last bits
    assert (other_batches.found, scored) == (0, MORE[::-1])
    scored.clear()
    of_other_feedback = run("fourth", "that")
    of_other_feedback.of(MORE)
    assert (of_other_feedback.found, scored) == (0, MORE)


def test_only_runs_that_compute_alike_share(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(anchor: str = "base one") -> int:
        run = AnchorScores(backbone, shared=shared_scores(backbone, tmp_path, anchor, "this"))
        run.of(MORE)
        return run.found

    assert (found(), found(), found("base one, with an adapter")) == (0, len(MORE), 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert found() == 0


def test_what_is_shared_is_of_use_only_whole(
    backbone: Backbone, scored: list[Example], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = AnchorScores(backbone, shared=shared_scores(backbone, tmp_path, "base one", "this")).of(MORE)
    (file,) = tmp_path.iterdir()
    AnchorScores(backbone, shared=shared_scores(backbone, tmp_path, "base two", "this")).of(MORE[:2])
    (other,) = set(tmp_path.iterdir()) - {file}
    for damaged in (file.read_bytes()[:-7], other.read_bytes()):
        file.write_bytes(damaged)
        scored.clear()
        for found in (0, len(MORE)):
            run = AnchorScores(backbone, shared=shared_scores(backbone, tmp_path, "base one", "this"))
            assert torch.equal(run.of(MORE), expected)
            assert (run.found, scored) == (found, MORE)
        assert "written anew" in caplog.text
        caplog.clear()


def test_what_is_shared_stays_small(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_scores, "MOST_FILES", 2)
    monkeypatch.setattr(kept_scores, "MOST_SHARED", 3)

    def found(snapshot: str, examples: list[Example]) -> int:
        run = AnchorScores(backbone, shared=shared_scores(backbone, tmp_path, "base", snapshot))
        run.of(examples)
        for age, file in enumerate(sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)):
            os.utime(file, (1e9 - age, 1e9 - age))  # one after the other, however coarse the disk's clock is
        return run.found

    assert [found("one", MORE[:2]), found("two", MORE[:2]), found("one", MORE[:2])] == [0, 0, 2]
    assert found("three", MORE[:2]) == 0  # in the place of the one used longest ago
    assert len(list(tmp_path.iterdir())) == 2 and found("one", MORE[:2]) == 2
    assert found("two", MORE[:2]) == 0
    assert [found("one", MORE[2:4]), found("one", MORE[2:4]), found("one", MORE[:2])] == [0, 2, 0]
