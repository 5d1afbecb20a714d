"""What `hone doctor` misses, and what it doesn't."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.adapters.registry import Registry
from service.doctor import Finding, examine, is_the_same
from service.settings import load_settings
from service.store.session import Store
from tests.fixtures.adapters import provenance


def found(check: str, home: Path, **sections: dict[str, Any]) -> Finding:
    settings = load_settings(home, sections, environment={})
    return next(finding for finding in examine(settings) if finding.check == check)


@pytest.mark.parametrize(
    ("urls", "quantise", "ok"),
    [([], "none", False), (["http://127.0.0.1:9"], "none", None), (["http://127.0.0.1:9"], "nf4", False)],
)
def test_a_model_that_is_not_on_this_machine_is_missed_where_something_here_needs_it(
    tmp_path: Path, urls: list[str], quantise: str, ok: bool | None
) -> None:
    """Engines elsewhere have their own; a learner that trains against it in 4 bits does not."""
    engine = {"model": "nobody/nothing", "urls": urls}
    model = found("model", tmp_path, engine=engine, learner={"quantise": quantise})
    assert model.ok is ok and "nobody/nothing" in model.found and model.advice


def test_folders_that_were_set_aside_are_told_with_how_to_have_them_again(
    sqlite_store: Store, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapters"
    Registry(sqlite_store, folder).publish(source, provenance(), {}, "Of the store before.")
    assert "set aside" not in {finding.check for finding in examine(load_settings(tmp_path, environment={}))}
    with closing(Store.open(f"sqlite:///{tmp_path / 'new.db'}")) as store:
        Registry(store, folder).recover()
        (aside,) = folder.glob("v1.*")
        told = found("set aside", tmp_path)
        assert told.ok is None and told.found.startswith(f"{aside.name} in {folder}: ")
        assert f"`hone adapters import file://{aside}`" in told.advice


def test_vllm_is_found_where_hone_up_would_find_it(tmp_path: Path) -> None:
    """In an environment of its own, which this one doesn't import."""
    python = tmp_path / "python"
    python.touch(mode=0o755)
    told = found("vllm", tmp_path, engine={"vllm_python": str(python)})
    assert told.ok is None and told.found == f"by {python}"


@pytest.mark.parametrize("home", ["taken", "taken/inside"])
def test_a_home_that_a_file_is_in_the_way_of_is_no_home(tmp_path: Path, home: str) -> None:
    (tmp_path / "taken").touch()
    told = found("home", tmp_path / home)
    assert told.ok is False and f"{tmp_path / 'taken'} is a file" in told.found and "--home" in told.advice
    assert found("home", tmp_path / "not" / "made").ok is True


@pytest.mark.parametrize(("require_keys", "ok"), [(False, True), (True, False)])
def test_keys_are_missed_where_they_are_needed(
    sqlite_store: Store, tmp_path: Path, require_keys: bool, ok: bool
) -> None:
    told = found("keys", tmp_path, server={"require_keys": require_keys})
    assert told.ok is ok and told.found.startswith("0 in force")
    assert ("server.require_keys" in told.found) is not require_keys


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://localhost:8000", "http://127.0.0.1:8000", True),
        ("http://localhost:8001", "http://127.0.0.1:8000", False),
        ("http://10.0.0.1:8000", "http://127.0.0.1:8000", False),
    ],
)
def test_this_machine_has_several_names(one: str, other: str, same: bool) -> None:
    assert is_the_same(one, other) is same


def test_what_is_missing_is_installed_from_the_project_not_from_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.doctor.NEEDED", ("no_such_package",))
    missing = found("no_such_package", tmp_path)
    assert missing.ok is False and "`pip install .` in the project's folder" in missing.advice


@pytest.mark.parametrize(
    ("wanted", "machine", "ok", "words", "advice"),
    [
        (4, {"gpus": 8, "gloo": True, "nccl": True}, True, "with one of 8 GPUs each", ""),
        (4, {"gpus": 2, "gloo": True, "nccl": True}, False, "there are 2 GPUs", "learner.processes to 2 at most"),
        (2, {"gpus": 2, "gloo": True, "nccl": False}, False, "without nccl", "Install one"),
        (2, {"gpus": 0, "gloo": False, "nccl": False}, False, "without gloo", "Install one"),
        (999, {"gpus": 0, "gloo": True, "nccl": False}, None, "on the CPU", "wait for each other"),
        (2, None, False, "torch doesn't say", "import torch"),
    ],
)
def test_processes_of_a_training_need_a_gpu_each_and_a_way_to_talk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: int,
    machine: dict[str, int] | None,
    ok: bool | None,
    words: str,
    advice: str,
) -> None:
    monkeypatch.setattr("service.doctor._machine", lambda: machine)
    told = found("processes", tmp_path, learner={"processes": wanted, "sharding": "full"})
    assert told.ok is ok and told.found.startswith(f"{wanted} share a training, and the base") and words in told.found
    assert advice in told.advice and bool(advice) == bool(told.advice)


def test_processes_without_accelerate_are_missed_and_one_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "processes" not in {finding.check for finding in examine(load_settings(tmp_path, environment={}))}
    monkeypatch.setattr("service.doctor._version", lambda name: None if name == "accelerate" else "1.0")
    told = found("processes", tmp_path, learner={"processes": 2})
    assert told.ok is False and "accelerate" in told.found and "'.[learner]'" in told.advice


def test_the_machine_is_asked_what_it_has_for_several_processes(tmp_path: Path) -> None:
    told = found("processes", tmp_path, learner={"processes": 2})
    assert told.ok is not False and told.found.startswith("2 share a training, ")
