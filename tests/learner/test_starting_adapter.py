"""An adapter that training starts from is of the same base, and what it overrides is said."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from learner.backbone import Backbone
from learner.on_texts import learn
from learner.starting_adapter import BASE_FILE, check_base, write_base
from service.adapters.fingerprint import base_fingerprint
from service.adapters.manifest import MANIFEST
from service.errors import AdapterBroken, BadInput
from service.settings import LearnerSettings
from tests.learner.tiny_model import build_tiny_model

PAIRS = [{"prompt": f"what is {word} ?", "chosen": "yes .", "rejected": "no ."} for word in ("one", "red")]
QUICK = {"learner": {"dpo_on": "pairs", "rank": 4, "alpha": 8.0}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the same shapes, with other weights."""
    folder = build_tiny_model(tmp_path_factory.mktemp("other"), context=512)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learn("dpo", model, PAIRS, folder := tmp_path_factory.mktemp("learned") / "first", QUICK)
    return folder


def test_what_was_learned_from_texts_says_its_base_and_goes_on_from_no_other(
    adapter: Path, model: Path, other: Path, tmp_path: Path
) -> None:
    written = json.loads((adapter / BASE_FILE).read_text(encoding="utf-8"))
    assert written == {"name": str(model), "sha256": base_fingerprint(model), "quantisation": None}
    learn("dpo", model, PAIRS, tmp_path / "again", QUICK, parent=adapter)
    with pytest.raises(BadInput, match="was made for another base model"):
        learn("dpo", other, PAIRS, tmp_path / "strange", QUICK, parent=adapter)
    assert not (tmp_path / "strange").exists()


def test_the_same_base_by_another_path_is_not_warned_of(
    adapter: Path, model: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "link").symlink_to(model)
    backbone = Backbone.load(tmp_path / "link", LearnerSettings(rank=4, alpha=8.0), parent=adapter)
    assert not [one for one in recwarn if "base_model_name_or_path" in str(one.message)]
    assert backbone.model.peft_config["policy"].base_model_name_or_path == str(tmp_path / "link")


@pytest.mark.parametrize("role", ["parent", "anchor"])
def test_a_published_adapter_is_told_by_its_manifest(
    role: str, adapter: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = list[Any]()
    monkeypatch.setattr("learner.backbone.load_base", lambda *given: loaded.append(given))
    folder = tmp_path / "v1"
    folder.mkdir()
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    base = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    (folder / BASE_FILE).unlink()
    (folder / MANIFEST).write_text(json.dumps({"format_version": 1, "base": base}), encoding="utf-8")
    settings = LearnerSettings(rank=4, alpha=8.0)
    with pytest.raises(BadInput, match="v1 was made for another base model"):
        Backbone.load(
            other, settings, parent=folder if role == "parent" else None, anchor=folder if role == "anchor" else None
        )
    (folder / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(AdapterBroken, match=r"manifest\.json can't be read"):
        Backbone.load(
            other, settings, parent=folder if role == "parent" else None, anchor=folder if role == "anchor" else None
        )
    assert not loaded  # a base may be large
    (folder / MANIFEST).unlink()
    check_base(folder, other)  # nothing says whose it is


def test_the_log_says_which_settings_a_parent_overrides(
    adapter: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hone.learner"):
        assert Backbone.load(model, LearnerSettings(rank=4, alpha=8.0), parent=adapter).rank == 4
        assert not caplog.text
        assert Backbone.load(model, LearnerSettings(rank=2, alpha=16.0), parent=adapter).rank == 4
    assert "It keeps the rank 4 and alpha 8 of" in caplog.text


def test_a_base_without_a_fingerprint_is_not_said(tmp_path: Path) -> None:
    write_base(tmp_path, str(tmp_path), LearnerSettings())
    assert not (tmp_path / BASE_FILE).exists()


def test_a_refusal_names_both_bases_by_their_weights(adapter: Path, model: Path, other: Path) -> None:
    found, wanted = base_fingerprint(model)[:12], base_fingerprint(other)[:12]
    with pytest.raises(BadInput, match=rf"fingerprint {found}\) than .* \(fingerprint {wanted}\)"):
        check_base(adapter, other)


def test_an_adapter_that_does_not_say_its_base_is_taken_with_a_warning(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_base(tmp_path, model)
    assert f"{tmp_path} doesn't say which base it was trained on" in caplog.text


def test_the_result_of_a_training_says_that_a_parent_does_not_say_its_base(
    adapter: Path, model: Path, tmp_path: Path
) -> None:
    assert learn("dpo", model, PAIRS, tmp_path / "known", QUICK, parent=adapter).remarks == ()
    for file in adapter.iterdir():
        if file.name != BASE_FILE:
            (tmp_path / "nameless").mkdir(exist_ok=True)
            (tmp_path / "nameless" / file.name).write_bytes(file.read_bytes())
    learned = learn("dpo", model, PAIRS, tmp_path / "out", QUICK, parent=tmp_path / "nameless")
    (remark,) = learned.remarks
    assert remark.startswith(f"{tmp_path / 'nameless'} doesn't say which base it was trained on")


def test_all_files_of_an_adapter_may_be_read_by_whom_the_umask_lets(adapter: Path) -> None:
    assert len({file.stat().st_mode for file in adapter.iterdir()}) == 1
