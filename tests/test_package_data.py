"""What is installed otherwise than from this folder, as in a container, has every file that the code reads."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MADE = {".py", ".pyc", ".so"}
"""Suffixes of code, and of what is made of it."""


def test_every_file_of_the_packages_that_is_no_code_is_installed_with_them() -> None:
    chosen = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    installed = {
        file
        for package, globs in chosen.items()
        for glob in globs
        for file in (ROOT / package.replace(".", "/")).glob(glob)
    }
    there = {
        file
        for package in ("service", "learner", "ui")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and file.suffix not in MADE and not file.name.startswith(".")
    }
    assert {path.name for path in there} >= {"built_in.toml", "red_team.toml", "config.json"}
    assert sorted(str(path.relative_to(ROOT)) for path in there - installed) == []
