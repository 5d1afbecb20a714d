"""The Dockerfile: its stages, what they copy and install, and that the service's image needs no torch."""

from __future__ import annotations

import ast
import fnmatch
import functools
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from fsspec.registry import known_implementations
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.reading import EXTRAS, PROJECT, ROOT, Dockerfile, parse_command, settings_of
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE
from tests.service.fake_engine import FakeEngine
from tests.source_modules import MAY_BE_HEAVY, OURS, is_under, module_name, sources

TARGETS = ("service", "learner-gpu", "cpu")


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile()


def test_every_stage_is_built_on_an_earlier_one_or_on_a_pinned_image(dockerfile: Dockerfile) -> None:
    assert dockerfile.targets == TARGETS  # the last is what is built without --target
    for number, (stage, parent) in enumerate(dockerfile.parents.items()):
        earlier = list(dockerfile.parents)[:number]
        assert parent in earlier or re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", parent), f"{stage}: {parent}"


def test_what_is_copied_exists_and_is_not_kept_out_of_the_build(dockerfile: Dockerfile) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().split() if line]
    copied = [value.split() for instruction, value in dockerfile.instructions if instruction == "COPY"]
    assert copied
    for *paths, _ in copied:
        for path in paths:
            assert (ROOT / path).exists(), path
            assert not any(fnmatch.fnmatch(path, pattern) for pattern in ignored), path


def asked_of_pip(dockerfile: Dockerfile, target: str, extras: str) -> list[list[str]]:
    """The words that every pip of an image gets, as its shell makes them, with `--build-arg EXTRAS=…`."""
    steps = [value for name, value in dockerfile.of(target) if name == "RUN" and "pip install" in value]
    commands = [command.strip() for step in steps for command in step.split("&&")]
    assert all(command.startswith("pip install ") for command in commands)
    environment = {"PATH": os.environ["PATH"], "EXTRAS": extras, "TORCH_INDEX": "https://index.example"}
    instead = 'pip() { printf "%s\\n" "$@"; }; '
    said = [subprocess.check_output(["sh", "-c", instead + one], env=environment, text=True) for one in commands]
    return [words.splitlines() for words in said]


@pytest.mark.parametrize("more", ["", "s3", "s3,gcs"])
@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_extras_that_exist_under_the_pinned_versions(
    dockerfile: Dockerfile, target: str, more: str
) -> None:
    copied = {path for name, value in dockerfile.of(target) if name == "COPY" for path in value.split()[:-1]}
    asked = asked_of_pip(dockerfile, target, more)
    for words in asked:
        assert words[words.index("-c") + 1] == "deploy/constraints.txt" and "deploy/constraints.txt" in copied
    assert ("ARG", "EXTRAS=") in dockerfile.of(target)
    found = re.fullmatch(r"\.(?:\[([\w,]+)\])?", asked[-1][-1])
    assert found is not None
    extras = set(found[1].split(",")) if found[1] else set()
    own: dict[str, set[str]] = {"service": set(), "learner-gpu": {"nf4"}, "cpu": {"learner"}}
    assert extras == own[target] | set(more.split(",")) - {""} and extras <= EXTRAS


@pytest.mark.parametrize(("extra", "protocol"), [("s3", "s3"), ("gcs", "gs")])
def test_an_object_store_has_an_extra_with_the_package_that_fsspec_needs_for_it(extra: str, protocol: str) -> None:
    package = known_implementations[protocol]["class"].split(".")[0]
    assert required(extra) == required() | {package}


def test_every_package_that_we_ask_for_has_a_pin_but_for_vllm_which_has_a_file_of_its_own() -> None:
    pins = {Requirement(line).name for line in (ROOT / "deploy" / "constraints.txt").read_text().splitlines()}
    asked = set.union(*(required(extra) for extra in EXTRAS - {"vllm"}))
    assert asked <= {canonicalize_name(name) for name in pins}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_starts_a_command_of_ours_as_somebody_without_rights(dockerfile: Dockerfile, target: str) -> None:
    program, *arguments = dockerfile.command(target)
    assert program in PROJECT["scripts"] and dockerfile.last(target, "USER") == "hone"
    parse_command(arguments)
    settings = settings_of(dockerfile.environment(target))
    assert settings.server.host == "0.0.0.0"
    assert dockerfile.last(target, "VOLUME") == dockerfile.environment(target)["HONE_HOME"]


# -- the service without torch ----------------------------------------------------------------------------------------


PROVIDERS = metadata.packages_distributions()
PART_OF = {"pydantic-core": "pydantic"}  # which pins it


def required(extra: str = "") -> set[str]:
    """What `pip install hone[extra]` asks for, by distribution; an extra of ours stands for what is in it."""
    asked: set[str] = set()
    left = ["", extra]
    while left:
        name = left.pop()
        lines = PROJECT["optional-dependencies"][name] if name else PROJECT["dependencies"]
        for one in map(Requirement, lines):
            if one.name == PROJECT["name"]:
                left += one.extras
            else:
                asked.add(str(canonicalize_name(one.name)))
    return asked


@functools.cache
def closure(extra: str = "") -> frozenset[str]:
    """The same and what those require in turn, as installed here."""
    found: set[str] = set()
    left = required(extra)
    while left:
        name = left.pop()
        found.add(name)
        for line in _requires(name):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left |= {canonicalize_name(requirement.name)} - found
    return frozenset(found)


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # bitsandbytes, where nobody asked for it
        return []


def distributions(path: Path) -> set[str]:
    """The distributions that a file imports from, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    others = names - set(OURS) - set(sys.stdlib_module_names)
    found = {canonicalize_name(one) for name in others for one in PROVIDERS.get(name, [name])}
    return {PART_OF.get(name, name) for name in found}


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_each_file_imports_only_what_its_part_installs(path: Path) -> None:
    is_heavy = is_under(module_name(path), MAY_BE_HEAVY)
    extras = ("nf4", "trackers") if is_heavy else ("",)
    assert distributions(path) <= set().union(*map(required, extras)), module_name(path)


def test_the_service_asks_for_no_torch_and_the_learner_does() -> None:
    heavy = {"torch", "transformers", "peft"}
    assert not closure() & (heavy | {"apscheduler", "safetensors", "tokenizers"})
    for extra in ("learner", "nf4", "test"):
        assert heavy <= required(extra), extra


@pytest.fixture
def as_in_the_image(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python finds none of the packages that the service's image lacks."""
    missing = closure("learner") - closure()
    modules = [name for name, found in PROVIDERS.items() if all(canonicalize_name(one) in missing for one in found)]
    assert {"torch", "transformers", "peft", "apscheduler"} <= set(modules)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\n")
    home = {"HONE_HOME": str(tmp_path / "home"), "HONE_SERVER__PORT": "0", "HONE_ENGINE__MODEL": "base"}
    return os.environ | home | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def hone(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.cli", *arguments]


def test_the_service_serves_where_no_torch_is(as_in_the_image: dict[str, str]) -> None:
    with serve(FakeEngine().app) as engine:
        command = hone("serve", "--engine-url", engine, "--json")
        service = subprocess.Popen(command, env=as_in_the_image, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdout is not None
            ready: dict[str, Any] = json.loads(service.stdout.readline())
            assert ready["engines"][0]["facts"] is not None and ready["url"].startswith("http://127.0.0.1:")
        finally:
            service.terminate()
            service.communicate(timeout=PATIENCE)
    assert service.returncode == 0


@pytest.mark.parametrize("command", [("learn",), ("up",)], ids=" ".join)
def test_what_needs_torch_says_how_to_get_it(as_in_the_image: dict[str, str], command: tuple[str, ...]) -> None:
    done = subprocess.run(hone(*command), env=as_in_the_image, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "not installed here" in done.stderr and "pip install '.[learner]'" in done.stderr


def test_the_doctor_finds_nothing_wrong_with_a_service_without_torch(as_in_the_image: dict[str, str]) -> None:
    def torch(**more: str) -> dict[str, Any]:
        done = subprocess.run(
            hone("doctor", "--json"), env=as_in_the_image | more, capture_output=True, timeout=PATIENCE
        )
        return next(finding for finding in json.loads(done.stdout) if finding["check"] == "torch")

    assert torch()["ok"] is False
    elsewhere = torch(HONE_ENGINE__URLS="http://127.0.0.1:9")
    assert elsewhere["ok"] is None and ".[learner]" in elsewhere["advice"]
