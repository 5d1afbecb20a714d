"""Starts programs, watches them, starts a crashed one again, and stops them in order.

Each program runs in a session of its own (Ctrl-C reaches only the supervisor, which stops them in order) and ends with
the supervisor (`service.lifeline`). What it writes goes to `logs/<name>.out`; its own log is its own affair. A program
that ends before all were ready is a mistake that starting again won't mend: it is reported with its last words, unless
it had started already and run for a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from service.errors import ProgramEnded

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a crashed program is started again; doubles each time
STEADY_SECONDS = 60.0  # a program that ran for so long starts again at the first pause, if it was ready
ASK_SECONDS = 2.0  # between two questions whether a program that loads long is ready

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Program:
    """`python -P -m module arguments…`: a `ui.py` in the folder that people start us in is not ours.

    `stop_seconds`: how long it may take to end after SIGTERM.

    `python`: an interpreter other than ours. Such a program may start processes of its own, which end with it.
    """

    name: str
    module: str
    arguments: Sequence[str]
    stop_seconds: float
    files: tuple[int, ...] = ()  # file descriptors that it inherits
    python: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # beside what all programs have
    ready_url: str | None = None  # answers 200 once it is ready, for one that loads long: until then it is not steady


@dataclass
class _Running:
    program: Program
    process: subprocess.Popen[bytes]
    began: float
    pause: float = FIRST_PAUSE
    again_at: float | None = field(default=None)  # when it crashed: the moment to start it again
    was_ready: bool = False  # since it began, as far as was seen
    asked_at: float = float("-inf")  # whether it is

    @property
    def is_steady(self) -> bool:
        is_old = time.monotonic() - self.began > STEADY_SECONDS
        return is_old and (self.was_ready or self.program.ready_url is None)


class Supervisor:
    """What happens is logged. `start` belongs in the main thread: programs end with theirs."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs, self._environment = logs, dict(environment)
        self._running: list[_Running] = []

    def start(self, program: Program) -> None:
        self._output(program).write_bytes(b"")
        self._running.append(_Running(program, self._spawn(program), time.monotonic()))
        _log.info("The %s was started (process %d).", program.name, self._running[-1].process.pid)

    def check_started(self) -> None:
        """Raises ProgramEnded, with its last words, when a program could not start; others that ended start again."""
        for one in self._running:
            if one.again_at is None and not one.is_steady and (code := one.process.poll()) is not None:
                raise ProgramEnded(f"The {one.program.name} could not start: {self._last_words(one.program)}", code)
        self.look()

    def look(self) -> None:
        """Start again what has crashed, each after its pause."""
        for one in self._running:
            if one.again_at is None and (code := one.process.poll()) is not None:
                self._note_crash(one, code)
            elif one.again_at is not None and time.monotonic() >= one.again_at:
                self._start_again(one)
            elif one.again_at is None and not one.was_ready and one.program.ready_url is not None:
                _ask(one, one.program.ready_url)

    def stop(self) -> None:
        """Stop everything, the last started first; what doesn't end in its time is killed."""
        while self._running:
            one = self._running.pop()
            if one.process.poll() is not None:
                if one.again_at is None:  # else that was done when it crashed, and its number may be another's by now
                    _end_family(one)
                continue
            one.process.terminate()
            try:
                one.process.wait(one.program.stop_seconds)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            _end_family(one)
            _log.info("The %s was stopped.", one.program.name)

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        other = () if program.python is None else ("--python", program.python)
        command = [sys.executable, "-P", "-m", "service.lifeline", str(os.getpid()), *other, program.module]
        with self._output(program).open("ab") as output:
            return subprocess.Popen(
                [*command, *program.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment | dict(program.environment),
                pass_fds=program.files,
                start_new_session=True,
            )

    def _note_crash(self, one: _Running, code: int) -> None:
        _end_family(one)
        one.pause = FIRST_PAUSE if one.is_steady else one.pause
        how = _signal_name(-code) if code < 0 else f"exit code {code}"
        words = "" if code < 0 else f": {self._last_words(one.program)}"
        self._pause(one, f"ended ({how}){words.rstrip('.')}")

    def _start_again(self, one: _Running) -> None:
        try:
            one.process = self._spawn(one.program)
        except OSError as error:  # no memory for another process, say, or no folder for what it writes
            self._pause(one, f"can't be started: {error}")
            return
        one.began, one.again_at, one.was_ready = time.monotonic(), None, False
        _log.warning("The %s was started again (process %d).", one.program.name, one.process.pid)

    def _pause(self, one: _Running, why: str) -> None:
        """Have it started again after its pause; the next one will be longer."""
        one.again_at, pause = time.monotonic() + one.pause, one.pause
        one.pause = min(2 * one.pause, LONGEST_PAUSE)
        _log.warning("The %s %s. It starts again in %g s.", one.program.name, why, pause)

    def _output(self, program: Program) -> Path:
        return self._logs / f"{program.name}.out"

    def _last_words(self, program: Program) -> str:
        try:
            said = self._output(program).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"what it said can't be read: {error}"
        lines = said.strip().splitlines()
        words = lines[-1].strip()[:500] if lines else f"it said nothing; see {self._logs}"
        return words if program.python is None else f"{words} (the reason may stand above, in {self._output(program)})"


def _ask(one: _Running, url: str) -> None:
    if time.monotonic() - one.asked_at >= ASK_SECONDS:
        with contextlib.suppress(httpx2.HTTPError):
            one.was_ready = httpx2.get(url, timeout=1.0, trust_env=False, verify=False).status_code == 200
        one.asked_at = time.monotonic()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"


def _end_family(one: _Running) -> None:
    """Kill what a program under another interpreter has left behind: it headed a process group."""
    if one.program.python is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
