"""A simulation's own service keeps away from a real one, and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from learner.simulate import house
from service.settings import load_settings


class Started(Exception):
    """What would have been started, with which environment."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command, self.environment = command, environment


def test_what_the_environment_says_of_a_real_service_is_not_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(command: list[str], **how: object) -> None:
        environment = how["env"]
        assert isinstance(environment, dict)
        raise Started(command, environment)

    monkeypatch.setenv("HONE_STORE__URL", "postgresql://the-real-one")
    monkeypatch.setenv("HONE_ADAPTERS__URL", "s3://the-real-one/adapters")
    monkeypatch.setenv("HONE_adapters__url", "s3://the-real-one/adapters")
    monkeypatch.setenv("HONE_ENGINE__URL", "http://the-real-one")
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/mine")
    monkeypatch.setenv("HONE_SERVER__HOST", "0.0.0.0")
    monkeypatch.setenv("HONE_LEARNER__ANCHOR", "parent")
    monkeypatch.setenv("HONE_LEARNER__AUTO_PROMOTE", "false")
    monkeypatch.setenv("HONE_LEARNER__SEED", "7")
    monkeypatch.setenv("HONE_CONSTITUTION__SERVE", "always")
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(Started) as started, house.own_house({"HONE_LEARNER__RANK": "4"}, tmp_path):
        pass
    environment = started.value.environment
    assert not any("the-real-one" in value for name, value in environment.items() if name.startswith("HONE_"))
    assert environment["HONE_SERVER__HOST"] == "127.0.0.1" and environment["HONE_HOME"] == str(tmp_path)
    settings = load_settings(environment=environment)
    assert settings.adapters.url is None and settings.learner.auto_promote
    assert settings.learner.anchor == "base"  # to which KL is measured
    assert settings.constitution.serve == "asked"  # what is measured is what the adapters say themselves
    assert (settings.engine.model, settings.learner.seed, settings.learner.rank) == ("/models/mine", 7, 4)
    assert (tmp_path / "hone.db").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the watch takes half a second")
def test_the_service_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """By way of service.lifeline, as in `_start`: a kill -9 of the simulation leaves no service behind."""
    code = "import subprocess, sys, os, time; from learner.simulate import house; from pathlib import Path; "
    code += "print(house._start(Path(sys.argv[1]), {}).process.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    descriptor = None
    try:
        descriptor = os.pidfd_open(child)
    except ProcessLookupError:
        return
    import select

    try:
        assert select.select([descriptor], [], [], 20.0)[0], "the service lives on"
    finally:
        os.close(descriptor)
