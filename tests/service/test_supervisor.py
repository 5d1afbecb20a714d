"""Programs that are watched: what crashes starts again, and all are stopped in order."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

import httpx2
import psutil
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.errors import ProgramEnded
from service.supervisor import Program, Supervisor
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until


def child_with(word: str) -> psutil.Process | None:
    """The process of ours that has this on its command line."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # one that was just killed has no command line
            if word in child.cmdline():
                return child
    return None


def test_a_crashed_program_starts_again_and_all_are_stopped_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(tmp_path, os.environ)
    ports = []
    for name in ("first", "second"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
        supervisor.start(Program(name, "http.server", (ports[-1], "--bind", "127.0.0.1"), stop_seconds=10))

    def answers(port: str) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    until(lambda: all(answers(port) for port in ports))
    supervisor.check_started()
    before = child_with(ports[0])
    assert before is not None
    before.kill()

    def is_back() -> bool:
        supervisor.look()
        return child_with(ports[0]) not in (None, before) and answers(ports[0])

    until(is_back)
    processes = [child_with(port) for port in ports]
    assert processes[0] is not None and caplog.messages == [
        "The first ended (SIGKILL). It starts again in 0.5 s.",
        f"The first was started again (process {processes[0].pid}).",
    ]
    supervisor.stop()
    assert not any(process is None or process.is_running() for process in processes)


def test_a_crash_and_a_start_that_fails_end_nothing_else_and_are_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody removes the folder of what programs write; it is there again later."""
    logs = tmp_path / "logs"
    logs.mkdir()
    supervisor = Supervisor(logs, os.environ)
    supervisor.start(Program("thing", "no_such_module_anywhere", (), stop_seconds=1))
    shutil.rmtree(logs)

    def look_until(words: str, times: int = 1) -> None:
        def is_told() -> bool:
            supervisor.look()
            return caplog.text.count(words) >= times

        until(is_told)

    look_until("ended (exit code 1): what it said can't be read")
    look_until("can't be started", times=2)
    assert "It starts again in 1 s." in caplog.text and "It starts again in 2 s." in caplog.text
    logs.mkdir()
    look_until("was started again")
    look_until("No module named no_such_module_anywhere")
    supervisor.stop()


def test_a_program_that_had_started_starts_again_while_the_others_are_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner may run for the hour that an engine's model takes to come."""
    monkeypatch.setattr("service.supervisor.STEADY_SECONDS", 0.0)
    supervisor = Supervisor(tmp_path, os.environ)
    supervisor.start(Program("thing", "no_such_module_anywhere", (), stop_seconds=1))

    def is_told() -> bool:
        supervisor.check_started()
        return "The thing was started again" in caplog.text

    until(is_told)
    supervisor.stop()
    caplog.clear()
    supervisor.start(Program("engine", "no_such_module_anywhere", (), stop_seconds=1, ready_url="http://127.0.0.1:9"))
    with pytest.raises(ProgramEnded, match="The engine could not start"):
        until(is_told)
    supervisor.stop()


@pytest.mark.parametrize("is_ready", [True, False])
def test_the_pause_before_a_program_that_loads_long_grows_unless_it_was_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_ready: bool
) -> None:
    """One that dies a minute into its loading is no steady one."""
    monkeypatch.setattr("service.supervisor.STEADY_SECONDS", 0.0)
    monkeypatch.setattr("service.supervisor.ASK_SECONDS", 0.0)
    monkeypatch.setattr("service.supervisor.FIRST_PAUSE", 0.01)
    health = Starlette(routes=[Route("/health", lambda request: PlainTextResponse("", 200 if is_ready else 503))])
    supervisor = Supervisor(tmp_path, os.environ)
    with serve(health) as url:
        supervisor.start(Program("engine", "no_such_module_anywhere", (), stop_seconds=1, ready_url=f"{url}/health"))

        def has_ended_twice() -> bool:
            supervisor.look()
            return caplog.text.count("It starts again in") >= 2

        until(has_ended_twice)
        supervisor.stop()
    assert caplog.text.count("It starts again in 0.5 s") == (0 if is_ready else 1)
    assert caplog.text.count("It starts again in 0.01 s") == (2 if is_ready else 0)


def test_a_program_that_cannot_start_says_why(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, os.environ)
    supervisor.start(Program("thing", "no_such_module_anywhere", (), stop_seconds=1))

    def ended() -> bool:
        try:
            supervisor.check_started()
        except ProgramEnded as error:
            assert "No module named no_such_module_anywhere" in str(error) and error.exit_code == 1
            return True
        return False

    until(ended)
    supervisor.stop()
