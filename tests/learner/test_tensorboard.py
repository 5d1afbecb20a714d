"""A run's event files hold its metrics step by step, and an attempt that goes on voids what it repeats."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from learner.tensorboard import Board


def events(folder: Path) -> Iterator[Any]:
    """The events of all files in it, oldest file first: records of a length, its checksum, the event, its checksum."""
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def values(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar, without those that a later attempt took back, as TensorBoard reads them."""
    found = list[tuple[str, int, float]]()
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            found = [one for one in found if one[1] < event.step]
        found += [(str(value.tag), int(event.step), float(value.simple_value)) for value in event.summary.value]
    return found


def test_each_phase_has_its_metrics_by_step(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.add("sft", 1, {"loss": 2.0})
    board.add("sft", 2, {"loss": 1.5})
    board.add("sft again", 1, {"loss": 0.5, "nll": 0.25})
    board.close()
    assert values(tmp_path / "sft") == [("loss", 1, 2.0), ("loss", 2, 1.5)]
    assert values(tmp_path / "sft-again") == [("loss", 1, 0.5), ("nll", 1, 0.25)]


def test_an_attempt_that_goes_on_takes_the_place_of_what_it_repeats(tmp_path: Path) -> None:
    first = Board(tmp_path)
    for step in (1, 2, 3):
        first.add("dpo", step, {"loss": float(step)})
    first.close()
    again = Board(tmp_path)
    again.add("dpo", 2, {"loss": 20.0})
    again.close()
    assert values(tmp_path / "dpo") == [("loss", 1, 1.0), ("loss", 2, 20.0)]


def test_a_closed_board_writes_on(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.add("kto", 1, {"loss": 1.0})
    board.close()
    board.add("kto", 2, {"loss": 2.0})
    board.close()
    assert [step for _, step, _ in values(tmp_path / "kto")] == [1, 2]


@pytest.mark.parametrize("fails", ["opening", "closing", "a large step"])
def test_a_full_disk_is_told_once_and_holds_nothing_up(
    tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To what is buffered the kernel says at the latest when the file is closed that there is no room."""
    if fails == "opening":
        (tmp_path / "sft").write_text("in the way")
    else:
        full = partial(Path("/dev/full").open, "wb")
        monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full())
    board = Board(tmp_path)
    for step in range(1, 40):  # more than a queue of the library's own would take
        board.add("sft", step, {f"{number}": 1.0 for number in range(400 if fails == "a large step" else 1)})
    board.close()
    board.add("sft again", 1, {"loss": 1.0})
    board.close()
    (said,) = caplog.messages
    assert "TensorBoard is told nothing more of this run" in said and str(tmp_path) in said
    assert ("exists" if fails == "opening" else "No space left on device") in said
