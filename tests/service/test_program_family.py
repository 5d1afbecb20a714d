"""A program under another interpreter, as vLLM is: what it starts ends with it, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from service.supervisor import Program, Supervisor
from tests.service.serving import until

FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""
START = """
import os, sys, time
from pathlib import Path
from service.supervisor import Program, Supervisor
supervisor = Supervisor(Path(sys.argv[1]), os.environ)
supervisor.start(Program("parent", "family", (), 5.0, python=sys.executable))
time.sleep(600)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "family.py").write_text(FAMILY)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def family_of(head: int) -> list[psutil.Process]:
    """The head of the group, the program, and its child; empty while not all are there."""
    found = [psutil.Process(head), *psutil.Process(head).children(recursive=True)]
    return found if len(found) == 3 else []


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_program_takes_its_children_along_and_starts_again(
    tmp_path: Path, environment: dict[str, str], caplog: pytest.LogCaptureFixture, victim: int
) -> None:
    """Whether the program itself is killed or the process that heads its group."""
    supervisor = Supervisor(tmp_path, environment)
    supervisor.start(Program("parent", "family", (), 5.0, python=sys.executable))
    until(lambda: len(family_of(supervisor.process_id("parent"))) == 3, 60)
    before = family_of(supervisor.process_id("parent"))
    before[victim].kill()

    def is_back() -> bool:
        supervisor.look()
        now = supervisor.process_id("parent")
        return now != before[0].pid and len(family_of(now)) == 3

    until(is_back, 60)
    assert all(map(is_gone, before)) and caplog.text.count("ended") == 1
    again = family_of(supervisor.process_id("parent"))
    supervisor.stop()
    until(lambda: all(map(is_gone, again)), 30)


def test_a_killed_supervisor_leaves_nobody_behind(tmp_path: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", START, str(tmp_path)], env=environment)
    top = psutil.Process(process.pid)
    until(lambda: len(top.children(recursive=True)) == 3, 60)
    family = top.children(recursive=True)
    process.kill()
    process.wait(30)
    until(lambda: all(map(is_gone, family)), 30)
