"""Adapter folders: written whole, checked byte by byte, refused by the name of what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.adapters.archive import export_folder
from service.adapters.files import check_folder, publish_folder, remove_folder, set_aside
from service.adapters.manifest import CONFIG, MANIFEST, REPORT, WEIGHTS, Manifest, Probe
from service.errors import AdapterBroken, Conflict, StoreError
from service.store.clock import now
from tests.fixtures.adapters import provenance
from tests.fixtures.schema import check_manifest, manifest_validator
from tests.fixtures.waiting import PATIENCE


def _rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_published_folder_is_complete_and_vouched_for(published: Path) -> None:
    assert {path.name for path in published.iterdir()} == {CONFIG, WEIGHTS, REPORT, MANIFEST}
    manifest = check_folder(published)
    assert check_folder(published, manifest.hash()) == manifest
    assert manifest.files[WEIGHTS].bytes == (published / WEIGHTS).stat().st_size
    assert json.loads((published / REPORT).read_text()) == {"won": 0.7}
    assert [path.name for path in published.parent.iterdir()] == ["v1"]
    assert all(path.stat().st_mode & 0o222 == 0 for path in published.iterdir())


def test_a_name_that_is_taken_is_refused_and_what_is_there_stays(published: Path, source: Path) -> None:
    before = check_folder(published)
    with pytest.raises(Conflict, match="exists already"):
        publish_folder(source, published.parent, Manifest.of(provenance(), "v1", now()), {})
    assert check_folder(published) == before


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: _rewrite(folder / name, (folder / name).read_bytes()[:-7])


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    _rewrite(folder / WEIGHTS, bytes(content))


def _rewrite_new(path: Path) -> None:
    path.write_bytes(b"\x80\x04N.")


def _add(name: str) -> Callable[[Path], None]:
    return lambda folder: _rewrite_new(folder / name)


def _link_weights(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove(WEIGHTS), f"{WEIGHTS} is missing"),
        (_remove(CONFIG), f"{CONFIG} is missing"),
        (_remove(REPORT), f"{REPORT} is missing"),
        (_remove(MANIFEST), f"{MANIFEST} is missing"),
        (_truncate(WEIGHTS), f"{WEIGHTS} is truncated"),
        (_truncate(CONFIG), f"{CONFIG} is truncated"),
        (_truncate(MANIFEST), f"{MANIFEST} is no manifest"),
        (_flip_a_bit, f"{WEIGHTS} was changed after it was published"),
        (_add("adapter_model.bin"), "adapter_model.bin is a pickle, which can run code"),
        (_add("adapter_model.pt"), "adapter_model.pt is a pickle"),
        (_add("notes.txt"), "notes.txt is not in the manifest"),
        (_link_weights, f"{WEIGHTS} is not a plain file"),
    ],
)
def test_a_damaged_folder_is_refused_by_the_name_of_the_file(
    published: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(published)
    with pytest.raises(AdapterBroken) as refused:
        check_folder(published)
    assert f"Adapter v1: {words}" in str(refused.value)
    assert "learn again" in str(refused.value)


def test_a_missing_folder_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(AdapterBroken, match=r"Adapter v9: its folder is missing\. .* Its place is .*/v9\."):
        check_folder(tmp_path / "v9")


def test_what_lies_in_the_place_of_a_folder_or_a_file_is_as_good_as_missing(published: Path) -> None:
    (published.parent / "v9").write_text("a file")
    with pytest.raises(AdapterBroken, match="its folder is missing"):
        check_folder(published.parent / "v9")
    (published / MANIFEST).unlink()
    (published / MANIFEST).mkdir()
    with pytest.raises(AdapterBroken, match=f"{MANIFEST} is missing"):
        check_folder(published)


def test_a_manifest_that_the_store_does_not_know_is_refused(published: Path) -> None:
    known = check_folder(published).hash()
    content = json.loads((published / MANIFEST).read_text())
    content["method"] = "magic"
    _rewrite(published / MANIFEST, json.dumps(content).encode())
    with pytest.raises(AdapterBroken, match="was changed after it was published"):
        check_folder(published, known)


def test_a_full_disk_leaves_no_half_adapter_and_says_so(source: Path, tmp_path: Path) -> None:
    """The limit on file sizes is the kernel's, as a full disk would be."""
    script = """
        import resource, sys
        from pathlib import Path
        from service.adapters.files import publish_folder
        from service.adapters.manifest import Manifest
        from service.errors import StoreError
        from service.store.clock import now
        from tests.fixtures.adapters import provenance
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            publish_folder(Path(sys.argv[1]), Path(sys.argv[2]), Manifest.of(provenance(), "v1", now()), {})
        except StoreError as error:
            print(error)
    """
    folder = tmp_path / "adapters"
    command = [sys.executable, "-c", textwrap.dedent(script), str(source), str(folder)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=root)
    assert "Can't write adapter v1" in done.stdout and "Free some space" in done.stdout, done.stderr
    assert list(folder.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_an_error_of_the_disk(source: Path, tmp_path: Path) -> None:
    (tmp_path / "adapters").write_text("a file")
    with pytest.raises(StoreError, match="Can't write adapter v1"):
        publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {})


def test_removing_takes_the_name_away_first(published: Path) -> None:
    remove_folder(published)
    assert list(published.parent.iterdir()) == []


def test_what_is_set_aside_stays_whole_and_leaves_its_name_free(published: Path, source: Path) -> None:
    manifest = check_folder(published)
    moved = []
    for _ in range(2):
        moved.append(set_aside(published))
        publish_folder(source, published.parent, manifest, {"won": 0.7})
    assert [check_folder(path) for path in moved] == [manifest, manifest]
    assert {path.name for path in published.parent.iterdir()} == {"v1", *(path.name for path in moved)}


def test_a_probe_needs_a_log_probability_for_each_token() -> None:
    with pytest.raises(ValidationError, match="different lengths"):
        Probe(prompt_token_ids=(1,), token_ids=(2, 3), logprobs=(-1.0,), base_logprobs=(-1.0, -2.0))
    with pytest.raises(ValidationError):
        Probe(prompt_token_ids=(1,), token_ids=(2,), logprobs=(float("nan"),), base_logprobs=(-1.0,))
    with pytest.raises(ValidationError):
        provenance(probes=())


def test_a_broken_adapter_is_not_exported(published: Path, tmp_path: Path) -> None:
    _flip_a_bit(published)
    with pytest.raises(AdapterBroken):
        export_folder(published, tmp_path / "v1.tar")
    assert not (tmp_path / "v1.tar").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"probes": []},
        {"name": "base"},
        {"rank": 0},
        {"format_version": 2},
        {"mood": "good"},
        {"files": {WEIGHTS: {"sha256": "short", "bytes": 1}}},
        {"base": {"name": "sprout"}},
        {"parent": 7},
    ],
)
def test_the_published_schema_refuses_what_is_no_manifest(published: Path, wrong: dict[str, object]) -> None:
    manifest = check_manifest(published)
    assert not list(manifest_validator().iter_errors(manifest))
    assert list(manifest_validator().iter_errors(manifest | wrong))
    with pytest.raises(ValidationError):  # the schema and Hone itself agree
        Manifest.model_validate(manifest | wrong)
