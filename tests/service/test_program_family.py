"""A program under another interpreter, as vLLM is: what it starts ends with it, however it ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from service.errors import ProgramEnded
from service.supervisor import Program, Supervisor
from tests.fixtures.waiting import PATIENCE, until

SIGNALLED = """
import os, signal

os.kill(os.getpid(), signal.SIGRTMIN + 3)
"""
FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""
DYING = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
sys.exit(f"My child {child.pid} lives on")
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
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    project = tmp_path / "project"  # in which we are started: what lies there is somebody else's
    project.mkdir()
    for name in ("family.py", "dying.py"):
        (project / name).write_text("raise SystemExit('the program of somebody else was run')")
    monkeypatch.chdir(project)
    (tmp_path / "family.py").write_text(FAMILY)
    (tmp_path / "dying.py").write_text(DYING)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def family() -> list[psutil.Process]:
    """The head of the group, the program, and its child; empty while not all are there."""
    for head in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # one that has just ended
            if "family" in head.cmdline():
                found = [head, *head.children(recursive=True)]
                return found if len(found) == 3 else []
    return []


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
    until(family)
    before = family()
    before[victim].kill()

    def is_back() -> bool:
        supervisor.look()
        now = family()
        return bool(now) and now[0] != before[0]

    until(is_back)
    assert all(map(is_gone, before)) and caplog.text.count("ended") == 1
    again = family()
    supervisor.stop()
    until(lambda: all(map(is_gone, again)))


def test_what_a_program_that_could_not_start_has_started_ends_with_the_others(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    supervisor = Supervisor(tmp_path, environment)
    supervisor.start(Program("parent", "dying", (), 5.0, python=sys.executable))
    told: list[str] = []

    def has_ended() -> bool:
        try:
            supervisor.check_started()
        except ProgramEnded as error:
            told.append(str(error))
        return bool(told)

    until(has_ended)
    child = psutil.Process(int(told[0].split("My child ")[1].split()[0]))
    assert child.is_running()
    supervisor.stop()
    until(lambda: is_gone(child))


def test_a_killed_supervisor_leaves_nobody_behind(tmp_path: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", START, str(tmp_path)], env=environment)
    top = psutil.Process(process.pid)
    until(lambda: len(top.children(recursive=True)) == 3)
    family = top.children(recursive=True)
    process.kill()
    process.wait(PATIENCE)
    until(lambda: all(map(is_gone, family)))


def test_a_program_that_dies_of_a_signal_without_a_name_starts_again(
    tmp_path: Path, environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    supervisor = Supervisor(tmp_path, environment)
    supervisor.start(Program("one", "signalled", (), 5.0))

    def was_noted() -> bool:
        supervisor.look()
        return "ended (signal " in caplog.text

    until(was_noted)
    supervisor.stop()
