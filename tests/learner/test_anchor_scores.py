"""The anchor's log-probabilities are computed once, last as long as a run does, and are never those of another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Example
from learner.methods.anchor_scores import AnchorScores
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


@pytest.mark.parametrize("fault", ["another anchor", "cut", "empty", "other tensors", "other shapes", "not finite"])
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
        kept |= {"other shapes": {"digests": kept["digests"][1:]}, "not finite": {"scores": kept["scores"] / 0}}.get(
            fault, {}
        )
        kept = {"weights": kept["scores"]} if fault == "other tensors" else kept
        save_file(kept, path, metadata={"anchor": "base one"})
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
