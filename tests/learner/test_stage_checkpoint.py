"""What a stage kept is there again, or it says why not; nothing else is ever gone on from."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from learner.stage_checkpoint import StageCheckpoint, fingerprint, keep_result, read_result, set_random
from learner.weights_file import write_tensors
from tests.fixtures.full_disk import no_file_above

WEIGHTS = {"a": torch.randn(40, 50), "b": torch.zeros(3, dtype=torch.bfloat16)}


def kept(path: Path, of: str = "this") -> dict[str, Any]:
    return StageCheckpoint(path, of).part("course")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a checkpoint that was written."""
    path = tmp_path / "0-ppo.unfinished"
    state = {
        "weights": WEIGHTS,
        "step": torch.tensor(7.0),
        "rate": 0.1 + 0.2,
        "best": [((1, 2), (3,), 0.5)],
        "none": None,
    }
    StageCheckpoint(path, "this").keep("course", lambda: state)
    return path


def test_what_was_kept_is_there_again_bit_for_bit(path: Path) -> None:
    state = kept(path)
    assert torch.equal(state["weights"]["a"], WEIGHTS["a"]) and state["weights"]["b"].dtype == torch.bfloat16
    assert state["step"].shape == () and state["step"] == 7 and state["rate"] == 0.1 + 0.2
    assert state["best"] == [[[1, 2], [3], 0.5]] and state["none"] is None
    assert StageCheckpoint(path, "this").part("another") == {} and [*path.parent.iterdir()] == [path]


def test_parts_that_were_kept_before_stay(path: Path) -> None:
    again = StageCheckpoint(path, "this")
    again.keep("basis", lambda: {"mean": 0.25})
    assert StageCheckpoint(path, "this").part("basis") == {"mean": 0.25}
    assert torch.equal(kept(path)["weights"]["a"], WEIGHTS["a"])
    again.remove()
    assert not path.exists() and again.part("basis") == {}
    again.remove()


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    rng, other = Random(3), Random(4)
    rng.random()
    StageCheckpoint(tmp_path / "it").keep("rng", lambda: {"state": rng.getstate()})
    set_random(other, StageCheckpoint(tmp_path / "it").part("rng")["state"])
    assert [other.random() for _ in range(3)] == [rng.random() for _ in range(3)]


def test_one_of_another_training_is_not_gone_on_from_and_it_is_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert kept(path, "other") == {}
    assert f"{path} is of no use, so this stage begins again: it is of another training" in caplog.text


@pytest.mark.parametrize("damage", ["cut short", "empty", "no checkpoint", "a bit", "its numbers"])
def test_one_that_is_damaged_is_not_gone_on_from_and_it_is_said(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = path.read_bytes()
    flipped = bytearray(raw)
    flipped[-100] ^= 1
    damaged = {
        "cut short": raw[:-10], "empty": b"", "no checkpoint": b"hello, world", "a bit": bytes(flipped),
        "its numbers": raw.replace(b"0.30000000000000004", b"0.30000000000000007"),
    }  # fmt: skip
    assert damaged[damage] != raw
    path.write_bytes(damaged[damage])
    assert kept(path) == {}
    assert "is of no use, so this stage begins again" in caplog.text


def test_a_disk_that_is_full_costs_the_new_one_alone_and_it_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, asked = StageCheckpoint(path, "this"), list[int]()

    def state(step: int) -> dict[str, Any]:
        asked.append(step)
        return {"step": step, "weights": {"a": torch.zeros(400, 500)}}

    with no_file_above(50_000):
        for step in (8, 9):
            checkpoint.keep("course", lambda step=step: state(step))  # type: ignore[misc]
    assert asked == [8, 9] and kept(path)["step"] == 7 and [*path.parent.iterdir()] == [path]
    assert caplog.text.count("can't be written (File too large)") == 1 and "Free some space" in caplog.text
    checkpoint.keep("course", lambda: state(10))
    assert kept(path)["step"] == 10


def test_one_is_written_when_it_is_time_to(tmp_path: Path) -> None:
    path = tmp_path / "it"
    checkpoint = StageCheckpoint(path, "this", every_seconds=3600)
    checkpoint.keep("course", lambda: pytest.fail("It was asked for."))
    assert not path.exists()
    checkpoint.keep("course", lambda: {"step": 2}, now=True)
    assert kept(path) == {"step": 2}


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    checkpoint = StageCheckpoint()
    checkpoint.keep("course", lambda: pytest.fail("It was asked for."), now=True)
    checkpoint.remove()
    assert checkpoint.part("course") == {} and not [*tmp_path.iterdir()]


def test_every_fact_and_every_weight_makes_another_training() -> None:
    other = {**WEIGHTS, "a": WEIGHTS["a"] + 1e-3}
    found = [fingerprint(*one) for one in (((1, "a"), WEIGHTS), ((2, "a"), WEIGHTS), ((1, "a"), other), ((1, "a"), {}))]
    assert len(set(found)) == 4 and fingerprint((1, "a"), {**WEIGHTS}) == found[0]


def test_tensors_are_written_whole_or_not_at_all_and_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(WEIGHTS, path, {"format": "pt"})
    with no_file_above(1000), pytest.raises(OSError, match="File too large") as raised:
        write_tensors({"a": torch.zeros(40, 50)}, path)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))
    assert torch.equal(load_file(path)["a"], WEIGHTS["a"]) and [*tmp_path.iterdir()] == [path]
    with pytest.raises(FileNotFoundError):
        write_tensors(WEIGHTS, tmp_path / "nowhere" / "weights.safetensors")


def test_the_result_of_a_stage_that_is_damaged_is_left_alone_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "0-sft.safetensors"
    assert read_result(path) == {} and not caplog.records
    with caplog.at_level(logging.WARNING), no_file_above(1000):
        assert not keep_result(WEIGHTS, path)
    assert "can't be written" in caplog.text and read_result(path) == {}
    assert keep_result(WEIGHTS, path) and torch.equal(read_result(path)["a"], WEIGHTS["a"])
    path.write_bytes(path.read_bytes()[:-10])
    assert read_result(path) == {} and "is of no use" in caplog.text
