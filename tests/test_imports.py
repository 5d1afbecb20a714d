"""The house rules on who may import whom, and that the service stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.waiting import PATIENCE
from tests.source_modules import MAY_BE_HEAVY, OURS, ROOT, is_under, module_name, sources

# What a part may import of ours, by longest matching prefix of its module name.
ALLOWED: dict[str, tuple[str, ...]] = {
    "service.routes": (
        "service.adapters",
        "service.auth",
        "service.chat",
        "service.constitution",
        "service.engine",
        "service.errors",
        "service.parts",
        "service.routes",
        "service.routing",
        "service.settings",
        "service.store",
        "service.wire",
    ),
    "service.store": ("service.store", "service.errors", "service.wire", "service.settings"),
    "service.adapters": (
        "service.adapters",
        "service.store",
        "service.errors",
        "service.wire",
        "service.settings",
        "service.side_by_side",
    ),
    "service.constitution": (
        "service.constitution",
        "service.errors",
        "service.validation_messages",
        "service.wire",
        "service.side_by_side",
    ),
    "service.embedded": ("service.embedded", "service.listening", "service.settings", "service.errors"),
    "service.app": ("service",),
    "service.pages": ("service", "ui"),
    "service.cli": ("service", "learner", "ui"),
    "service.commands": ("service", "learner", "ui"),
    "service": ("service",),
    "learner": (
        "learner",
        "service.store",
        "service.adapters",
        "service.constitution",
        "service.listening",
        "service.settings",
        "service.side_by_side",
        "service.errors",
        "service.wire",
    ),
    "ui": ("ui",),
}
ASSEMBLES = ("service.app", "service.cli", "service.commands")
HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as `a.b` where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = ROOT.joinpath(*node.module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def allowed_for(module: str) -> tuple[str, ...]:
    matching = [prefix for prefix in ALLOWED if is_under(module, (prefix,))]
    return ALLOWED[max(matching, key=len)]


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_each_part_imports_only_what_it_may(path: Path) -> None:
    module = module_name(path)
    for name in imports(path):
        if name.split(".")[0] in OURS:
            assert is_under(name, allowed_for(module)), f"{module} may not import {name}"
            if is_under(name, ASSEMBLES):
                assert is_under(module, ASSEMBLES), f"{module} may not import {name}: only those assemble"
        if name.split(".")[0] in HEAVY:
            assert is_under(module, MAY_BE_HEAVY), f"{module} may not import {name}"


def test_the_page_on_the_architecture_says_the_same() -> None:
    page = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())
    for part, before in (("service.routes", "routes → "), ("learner", "learner → "), ("ui", "ui → ")):
        said = page.partition(f"`{before}")[2].partition("`")[0].split(", ")
        named = {name if name.startswith(("service.", "nothing")) else f"service.{name}" for name in said}
        assert named == (set(ALLOWED[part]) - {part} or {"nothing of ours"})


def test_no_import_is_relative_and_no_file_is_a_drawer_for_odds_and_ends() -> None:
    for path in sources():
        assert path.stem not in ("utils", "common", "helpers", "misc"), path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), path


def test_no_process_of_ours_is_started_with_the_folder_of_whoever_starts_it_on_its_path() -> None:
    """`python -m` puts it first: a `ui.py` of one's own would be run in place of ours."""
    started = [line.strip() for path in sources() for line in path.read_text(encoding="utf-8").splitlines()]
    started = [line for line in started if "sys.executable, " in line]
    assert started and all('sys.executable, "-P", "-m", ' in line for line in started), started


def test_the_service_loads_neither_torch_nor_transformers() -> None:
    light = [m for m in map(module_name, sources()) if is_under(m, ("service",)) and not is_under(m, MAY_BE_HEAVY)]
    light = [m for m in light if ".migrations" not in m]
    check = f"import sys, importlib\nfor m in {light!r}: importlib.import_module(m)\n"
    check += f"print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
