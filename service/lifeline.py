"""Runs a module that ends when its parent ends: `python -m service.lifeline PARENT_PID MODULE [ARGUMENT…]`.

`hone up` starts its processes through this, so that killing it leaves none behind. On Linux the kernel does it
(PR_SET_PDEATHSIG holds across the exec); elsewhere a thread watches the parent. It is a hard end: whatever these
processes hold must survive a kill anyway.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
WATCH_SECONDS = 0.5


def main() -> None:
    parent, module, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before this could be arranged
        sys.exit(1)
    if sys.platform == "linux":
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
