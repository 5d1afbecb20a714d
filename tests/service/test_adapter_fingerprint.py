"""The fingerprint tells base models apart, also large ones, and only once all of one is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.adapters.fingerprint import LocalModel, base_fingerprint
from service.errors import BadInput


def test_a_fingerprint_tells_bases_apart(tmp_path: Path) -> None:
    def base(name: str, config: str = "{}", weights: bytes = b"weights") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(config)
        (folder / "model.safetensors").write_bytes(weights)
        return folder

    one = base("one")
    same = base("same")
    (same / "README.md").write_text("A copy.")
    others = [base("other-config", '{"a": 1}'), base("other-weights", weights=b"weightz")]
    assert base_fingerprint(one) == base_fingerprint(same)
    assert len({base_fingerprint(folder) for folder in [one, *others]}) == 3
    with pytest.raises(BadInput, match="holds no model"):
        base_fingerprint(tmp_path)
    with pytest.raises(BadInput, match="neither a folder nor in the local hub cache"):
        base_fingerprint("nobody/nothing")


def test_a_model_that_is_still_being_downloaded_has_no_fingerprint_yet(tmp_path: Path) -> None:
    parts = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / parts[0]).write_bytes(b"one")
    with pytest.raises(BadInput, match=r"lacks model\.safetensors\.index\.json"):
        base_fingerprint(tmp_path)
    index = {"weight_map": dict(zip("ab", parts, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="lacks model-2-of-2"):
        base_fingerprint(tmp_path)
    (tmp_path / parts[1]).write_bytes(b"two")
    assert base_fingerprint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(BadInput, match="is damaged"):
        base_fingerprint(tmp_path)


def test_a_model_that_comes_later_is_found_when_all_of_it_is_there_and_then_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    model = LocalModel(folder)
    assert (model.folder(), model.sha256()) == (None, None)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert (model.folder(), model.sha256()) == (None, None)
    (folder / "model.safetensors").write_bytes(b"weights")
    sha256 = base_fingerprint(folder)
    assert (model.folder(), model.sha256()) == (folder, sha256)
    (folder / "model.safetensors").unlink()
    assert (model.folder(), model.sha256()) == (folder, sha256)
    assert (LocalModel(None).folder(), LocalModel(None).sha256()) == (None, None)


def test_a_hub_name_that_leads_elsewhere_is_followed_when_somebody_doubts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    leads_to = [tmp_path / "old"]
    monkeypatch.setattr("service.adapters.fingerprint.model_folder", lambda model: leads_to[0])
    model = LocalModel("somebody/model")
    before = model.sha256()
    leads_to[0] = tmp_path / "new"
    assert (model.folder(), model.sha256()) == (tmp_path / "old", before)
    assert model.sha256(anew=True) not in (None, before) and model.folder() == tmp_path / "new"


def test_large_weights_are_fingerprinted_from_blocks_all_over_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "model.safetensors"
    size = 200 << 20
    with path.open("wb") as file:
        file.truncate(size)
    empty = base_fingerprint(tmp_path)
    seen = {empty}
    for at in (0, size - 1):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"\x01")
        seen.add(base_fingerprint(tmp_path))
    assert len(seen) == 3
