"""One process at a time in a run's folder.

The fence keeps an attempt that lost its lease from writing to the store, but not from writing to the run's folder: it
may have been paused for minutes and wake in the middle of a file. So every attempt holds a lock on the folder, which
the kernel takes from it when it dies, and an attempt that finds the lock held ends the holder: who holds the lease is
right. What it can't end (another machine, another user) it waits for.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"
CHILD = "learner.child"
"""The module that a training process runs: by this and the run's id one is told from all others."""
LOOK_SECONDS = 0.2

log = logging.getLogger("hone.learner")


@contextmanager
def alone_in(folder: Path, run_id: str, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock for as long as the block lasts. `waiting` is called again and again before; it may raise."""
    with (folder / LOCK).open("a+", encoding="utf-8") as lock:
        while not _taken(lock.fileno()):
            waiting()
            _end_holder(folder / LOCK, run_id)
            time.sleep(LOOK_SECONDS)
        lock.truncate(0)
        lock.write(f"{socket.gethostname()} {os.getpid()}\n")
        lock.flush()
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_holder(path: Path, run_id: str) -> None:
    """Kill the process that the lock names, if it is one that trains this run on this machine."""
    host, _, number = path.read_text(encoding="utf-8").strip().rpartition(" ")
    if host != socket.gethostname() or not number.isdigit() or int(number) == os.getpid():
        return
    with suppress(OSError):  # gone by itself meanwhile, or not ours to end
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        if CHILD.encode() in command and run_id.encode() in command:
            os.kill(int(number), signal.SIGKILL)
            log.warning("Ended process %s, which worked on run %s without holding its lease.", number, run_id)
