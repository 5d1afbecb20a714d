"""The process that trains (`learner.child`), as its daemon sees it: how it is started, stopped, and why it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from learner.run_lock import CHILD
from service.settings import Settings
from service.store.queries import runs

STOP_SECONDS = 5.0
"""How long a training that is asked to stop may take before it is killed; its checkpoint is good in either case."""


@dataclass
class Training:
    """A child process at work on a leased run."""

    lease: runs.Lease
    process: subprocess.Popen[bytes]
    log_path: Path

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


Start = Callable[[Settings, runs.Lease], Training]


def start_child(settings: Settings, lease: runs.Lease) -> Training:
    """Start `python -P -m learner.child` in a session of its own, bounded in threads, its output in the run's log."""
    folder = settings.runs_folder / lease.run_id
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(settings.learner.training_threads)
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    environment["MKL_DYNAMIC"] = "FALSE"  # always so many threads: the same seed gives the same sums
    environment["OMP_WAIT_POLICY"] = "passive"  # threads that spin for each other would hold up chat, and themselves
    environment |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}  # a log shows no moving bars
    command = [sys.executable, "-P", "-m", CHILD, "--home", str(settings.home)]
    command += ["--run", lease.run_id, "--fence", str(lease.fence)]
    with (folder / "log.txt").open("ab") as output:
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: the next look at it finds out why
        process.stdin.write(settings.model_dump_json().encode() + b"\n")
    return Training(lease, process, folder / "log.txt")


def cause_of_death(code: int, log_path: Path) -> str:
    """Why a child ended, in plain words, with the last line of its log."""
    if code == -signal.SIGKILL:
        return "it was killed (signal 9); was memory short?"
    try:
        lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{lines[-1].strip()[:300] if lines else 'it said nothing'} ({how}; more in {log_path})"
