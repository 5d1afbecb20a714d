"""Runs a module that ends when its parent ends: `python -P -m service.lifeline PARENT_PID MODULE [ARGUMENT…]`.

`hone up` starts its processes through this, so that killing it leaves none behind. On Linux the kernel does it
(PR_SET_PDEATHSIG holds across the exec); elsewhere a thread watches the parent. It is a hard end: whatever these
processes hold must survive a kill anyway.

With `--python INTERPRETER` before the module, the module runs under another interpreter, and what it starts in turn
ends with it, too: vLLM's workers would outlive a killed server and keep the GPU's memory. Then this process stays,
as the head of a process group of them all; SIGTERM is passed on to the module.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
WATCH_SECONDS = 0.5


def main() -> None:
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    if arguments[0] == "--python":
        sys.exit(_head_a_family(parent, [arguments[1], "-m", *arguments[2:]]))
    if sys.platform == "linux":
        _ask_for_signal_on_death(parent, signal.SIGKILL)
        os.execv(sys.executable, [sys.executable, "-P", "-m", *arguments])
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _head_a_family(parent: int, command: list[str]) -> int:
    """Run the command; its exit code. We lead the process group that it and its children are in."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, lambda *_: os.killpg(0, signal.SIGKILL))
    _ask_for_signal_on_death(parent, signal.SIGHUP)
    safe_path = {"PYTHONSAFEPATH": "1"}  # as -P, which an interpreter before 3.11 doesn't know
    process = subprocess.Popen(command, env=os.environ | safe_path)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.terminate())
    code = process.wait()
    return code if code >= 0 else 128 - code  # as a shell says it


def _ask_for_signal_on_death(parent: int, number: signal.Signals) -> None:
    """Linux alone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before this could be arranged
        sys.exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
