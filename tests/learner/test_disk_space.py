"""A full disk is waited for, and not for ever."""

from __future__ import annotations

import errno
from itertools import count

import pytest

from learner import disk_space
from learner.disk_space import once_there_is_space

FULL = OSError(errno.ENOSPC, "No space left on device", "/home/hone/adapter")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


class Disk:
    """Full for so many tries."""

    def __init__(self, tries: int, error: OSError = FULL) -> None:
        self.left, self.error, self.written, self.waits = tries, error, 0, 0

    def write(self) -> None:
        if self.left:
            self.left -= 1
            raise self.error
        self.written += 1

    def waiting(self) -> None:
        self.waits += 1


def test_it_is_tried_until_there_is_space(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(3)
    once_there_is_space(disk.write, disk.waiting)
    assert (disk.written, disk.waits) == (1, 3)
    assert caplog.text.count("There is no space to write /home/hone/adapter. Free some") == 1


def test_what_is_wrong_otherwise_is_not_waited_for() -> None:
    disk = Disk(1, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(PermissionError):
        once_there_is_space(disk.write, disk.waiting)
    assert disk.waits == 0


def test_a_disk_that_stays_full_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, clock = Disk(1 << 30), count(step=disk_space.LIMIT_SECONDS / 10)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with pytest.raises(OSError, match="No space left"):
        once_there_is_space(disk.write, disk.waiting)
    assert 5 < disk.waits < 12


def test_who_waits_can_be_stopped() -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        once_there_is_space(Disk(3).write, stop)
