"""`hone constitution run` is a run of the method that its stage stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from service.commands.constitution_run import run


@pytest.mark.parametrize(("stage", "method"), [("supervised", "sl-cai"), ("feedback", "rl-cai")])
def test_a_stage_is_one_run_of_its_method(
    stage: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("service.commands.constitution_run.learn", lambda **wishes: asked.append(wishes))
    app = typer.Typer()
    app.command()(run)
    done = CliRunner().invoke(app, [stage, "--home", str(tmp_path), "--no-promote", "--parent", "v2", "--json"])
    assert done.exit_code == 0, done.output
    wishes = {"method": method, "promote": False, "parent": "v2"}
    assert asked == [{"home": tmp_path, "once": True, "as_json": True, **wishes}]


def test_there_is_no_other_stage(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(run)
    assert CliRunner().invoke(app, ["both", "--home", str(tmp_path)]).exit_code == 2
