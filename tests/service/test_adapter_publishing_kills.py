"""Publishing is killed at every one of its steps, and nothing is ever half done."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from service.adapters.files import check_folder
from service.adapters.manifest import CONFIG, MANIFEST
from service.adapters.registry import Registry
from service.store.queries import adapters, serving
from service.store.session import Store
from tests.fixtures.adapters import provenance
from tests.service.registered import folders, states

_STEPS = ("adapters/registry.py", "adapters/files.py", "queries/adapters.py", "store/session.py", "/shutil.py")


class _Steps:
    """Counts the first time that each line of the publishing code runs; dies there when it is the `fatal`-th."""

    def __init__(self, fatal: int | None) -> None:
        self.fatal = fatal
        self.seen: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(_STEPS):
            return None
        step = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and step not in self.seen:
            self.seen.add(step)
            if len(self.seen) == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def _publish_in_a_process(url: str, folder: Path, source: Path, fatal: int) -> int:
    """Returns 0, or the signal that ended the process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store = Store.open(url)
            sys.settrace(_Steps(fatal))
            Registry(store, folder).publish(source, provenance(), {"won": 0.7}, "Passed.")
            sys.settrace(None)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def test_killed_at_any_step_publishing_leaves_all_of_an_adapter_or_nothing(source: Path, tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path / 'hone.db'}", tmp_path / "adapters"
    Store.open(url).close()
    outcomes = set()
    names: list[str] = []
    for fatal in range(1, 1000):
        ended = _publish_in_a_process(url, folder, source, fatal)
        assert ended in (0, signal.SIGKILL)
        store = Store.open(url)
        registry = Registry(store, folder)
        for path in folder.glob("v*"):
            check_folder(path)  # whoever sees a version's folder sees all of it
        registry.recover()
        found = states(store)
        published = {name for name, state in found.items() if state == "candidate"}
        assert folders(registry) == published
        assert set(found.values()) <= {"candidate", "rejected"}
        for name in published:
            registry.check(name)
        assert sorted(found, key=lambda name: int(name[1:]))[: len(names)] == names  # nothing vanished or was reused
        outcomes.add((ended, len(published)))
        for name in published:  # keeps the check of the next round short
            with store.begin() as tx:
                serving.set_state(tx, name, "rejected", "test", "")
                row = adapters.get_adapter(tx, name)
                assert row is not None
                row.manifest_hash = None
        registry.recover()
        names = sorted(found, key=lambda name: int(name[1:]))
        store.close()
        if ended == 0:
            break
    assert ended == 0, "publishing has more steps than this test tries"
    assert outcomes == {(signal.SIGKILL, 0), (signal.SIGKILL, 1), (0, 1)}
    assert fatal > 80
    assert not list(folder.glob(f"*/{MANIFEST}")) and not list(folder.glob(f"*/{CONFIG}"))
