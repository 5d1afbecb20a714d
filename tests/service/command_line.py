"""`hone …` in the tests' own process, and what it said."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service import cli
from service.adapters.registry import Registry
from service.settings import load_settings
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_source


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Hone = Callable[..., Done]


@pytest.fixture
def hone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hone:
    """`hone …` in this process, over a home of the test's own."""
    for name in ("HONE_HOME", "HONE_SERVER__PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/elsewhere")

    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["hone", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        for handler in set(root.handlers) - set(before[0]):
            handler.close()
        root.handlers[:], root.level = before
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


def store_of(tmp_path: Path) -> Store:
    return Store.open(load_settings(tmp_path / "home", environment={}).store_url)


def publish(tmp_path: Path) -> str:
    store = store_of(tmp_path)
    source = write_source(tmp_path / "source")
    name = Registry(store, tmp_path / "home" / "adapters").publish(source, provenance(), {"fluency": 0.1}, "It passed.")
    store.close()
    return name
