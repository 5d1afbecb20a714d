"""An attempt that lost its lease can't write into the folder of the one that has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from learner.run_lock import LOCK, alone_in
from tests.fixtures.waiting import PATIENCE

HOLDS = """
import sys, time
from pathlib import Path
from learner.run_lock import alone_in
with alone_in(Path(sys.argv[2]), sys.argv[3], lambda: None):
    print("holds", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, module: str = "learner.child", run_id: str = "run-1") -> subprocess.Popen[str]:
    """Another process that holds the lock; its command line looks like that of a training."""
    command = [sys.executable, "-c", HOLDS, module, str(folder), run_id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    return process


class GivenUp(Exception):
    pass


def test_a_paused_attempt_that_lost_its_lease_is_ended(tmp_path: Path) -> None:
    with holder(tmp_path) as paused:
        os.kill(paused.pid, signal.SIGSTOP)
        with alone_in(tmp_path, "run-1", lambda: None):
            assert paused.wait(PATIENCE) == -signal.SIGKILL
            assert (tmp_path / LOCK).read_text().endswith(f" {os.getpid()}\n")


@pytest.mark.parametrize(("module", "run_id"), [("something.else", "run-1"), ("learner.child", "run-2")])
def test_nobody_but_an_attempt_at_this_run_is_ended(tmp_path: Path, module: str, run_id: str) -> None:
    looks = []

    def waiting() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise GivenUp

    with holder(tmp_path, module, run_id) as other:
        with pytest.raises(GivenUp), alone_in(tmp_path, "run-1", waiting):
            pass
        assert other.poll() is None
        other.kill()
    with alone_in(tmp_path, "run-1", waiting):  # the kernel has let go of it
        pass
    assert len(looks) == 3
