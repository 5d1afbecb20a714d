"""Adapter folders: written whole, checked byte by byte, carried in archives that can do no harm."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from service.adapters.archive import export_folder, unpack
from service.adapters.files import check_folder, check_sizes, publish_folder, read_manifest, remove_folder, set_aside
from service.adapters.fingerprint import LocalModel, base_fingerprint
from service.adapters.manifest import CONFIG, MANIFEST, REPORT, WEIGHTS, Manifest, Probe
from service.adapters.weights import check_lora, read_header
from service.errors import AdapterBroken, AdapterUnreachable, BadInput, Conflict, StoreError
from service.store.clock import now
from tests.fixtures.adapters import RANK, TARGETS, WIDTH, provenance, write_base, write_source
from tests.fixtures.schema import check_manifest, manifest_validator
from tests.fixtures.waiting import PATIENCE


@pytest.fixture
def published(source: Path, tmp_path: Path) -> Path:
    return publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {"won": 0.7})


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


def _fail_to_open(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    whole = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", [MANIFEST, CONFIG, WEIGHTS, REPORT])
def test_a_file_that_can_not_be_read_now_says_nothing_about_the_adapter(
    published: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    _fail_to_open(monkeypatch, name, number)
    with pytest.raises(AdapterUnreachable, match=f"Adapter v1: {name} can't be read: {os.strerror(number)}"):
        check_folder(published)


def test_a_base_that_can_not_be_read_now_says_nothing_about_the_adapter(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_base(tmp_path / "base")
    check_folder(published, base_folder=base)
    for number in (errno.EIO, errno.ENOENT):  # it may just be replaced
        with monkeypatch.context() as patch:
            _fail_to_open(patch, "model.safetensors", number)
            with pytest.raises(AdapterUnreachable, match="The base model's weights can't be read"):
                check_folder(published, base_folder=base)


@pytest.mark.parametrize("left", [b"", b"junk" * 10, -1])
def test_a_base_that_is_damaged_or_still_being_copied_says_nothing_about_the_adapter(
    published: Path, tmp_path: Path, left: bytes | int
) -> None:
    weights = write_base(tmp_path / "base") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:left] if isinstance(left, int) else left)
    with pytest.raises(AdapterUnreachable, match="a file is damaged, or still being written"):
        check_folder(published, base_folder=weights.parent)
    weights.write_bytes(whole)
    check_folder(published, base_folder=weights.parent)


def test_a_base_may_hold_what_no_adapter_may(published: Path, tmp_path: Path) -> None:
    """Quantised weights, masks, counters."""
    odd = {f"{kind}.weight": np.zeros((2, 3), kind) for kind in ("uint8", "int64", "bool")}
    save_file(odd, write_base(tmp_path / "base") / "odd.safetensors")
    check_folder(published, base_folder=tmp_path / "base")


@contextmanager
def _no_more_files() -> Iterator[None]:
    """The kernel's limit on open files, reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as file:
        lowest_free = file.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("read", [check_folder, check_sizes, read_manifest, lambda path: read_header(path / WEIGHTS)])
def test_who_may_open_no_more_files_calls_no_adapter_broken(published: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(AdapterUnreachable, match="Too many open files"), _no_more_files():
        read(published)


def test_a_manifest_that_the_store_does_not_know_is_refused(published: Path) -> None:
    known = check_folder(published).hash()
    content = json.loads((published / MANIFEST).read_text())
    content["method"] = "magic"
    _rewrite(published / MANIFEST, json.dumps(content).encode())
    with pytest.raises(AdapterBroken, match="was changed after it was published"):
        check_folder(published, known)


Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
FIRST = f"base_model.model.model.layers.0.self_attn.{TARGETS[0]}.lora_A.weight"


def _wrong_rank(tensors: Tensors) -> None:
    tensors[FIRST] = tensors[FIRST][:-1]


def _no_a(tensors: Tensors) -> None:
    del tensors[FIRST]


def _other_module(tensors: Tensors) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = tensors[FIRST]


def _whole_weights(tensors: Tensors) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = tensors[FIRST]


def _no_numbers(tensors: Tensors) -> None:
    tensors[FIRST] = np.full_like(tensors[FIRST], np.nan)


def _whole_numbers(tensors: Tensors) -> None:
    tensors[FIRST] = tensors[FIRST].astype(np.int64)


def _one_target_less(tensors: Tensors) -> None:
    for name in [name for name in tensors if TARGETS[0] in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_wrong_rank, "which is not rank 4"),
        (_no_a, "has only one half (lora_B)"),
        (_other_module, "which is no LoRA weight of q_proj, v_proj"),
        (_whole_weights, "which is no LoRA weight of q_proj, v_proj"),
        (_no_numbers, "infinite or not numbers"),
        (_whole_numbers, "in I64, which engines don't serve"),
        (_one_target_less, "has no weights for q_proj"),
    ],
)
def test_weights_that_are_not_what_they_say_are_not_published(
    source: Path, tmp_path: Path, change: Callable[[Tensors], None], words: str
) -> None:
    tensors = {name: tensor.copy() for name, tensor in load_file(source / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, source / WEIGHTS)
    with pytest.raises(AdapterBroken) as refused:
        publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {})
    assert f"Adapter v1: {WEIGHTS} has" in str(refused.value) and words in str(refused.value)
    assert list((tmp_path / "adapters").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 8}, "says r = 8, and the manifest 4"),
        ({"lora_alpha": 16}, "says lora_alpha = 16.0, and the manifest 8.0"),
        ({"peft_type": "IA3"}, "says peft_type = 'IA3'"),
        ({"target_modules": ["q_proj"]}, "has target_modules ['q_proj']"),
        ({"target_modules": ".*_proj"}, "has target_modules '.*_proj'"),
        ({"use_dora": True}, "uses use_dora, which engines don't serve"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"bias": "all"}, "trains biases"),
        ({"r": None}, "says r = None"),
    ],
)
def test_a_configuration_that_no_engine_serves_is_not_published(
    source: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    config = json.loads((source / CONFIG).read_text())
    (source / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(AdapterBroken) as refused:
        publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {})
    assert f"Adapter v1: {CONFIG}" in str(refused.value) and words in str(refused.value)


def test_a_source_with_pickled_weights_alone_is_refused(source: Path, tmp_path: Path) -> None:
    (source / WEIGHTS).rename(source / "adapter_model.bin")
    with pytest.raises(AdapterBroken, match=r"is missing; adapter_model\.bin is a pickle, which can run code"):
        publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {})


def test_shapes_are_held_against_the_base_where_it_is_known(published: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    names = [f"model.layers.{layer}.self_attn.{target}.weight" for layer in range(2) for target in TARGETS]
    save_file({name: np.zeros((WIDTH, WIDTH), np.float32) for name in names}, base / "model.safetensors")
    check_folder(published, base_folder=base)
    save_file({name: np.zeros((WIDTH, 2 * WIDTH), np.float32) for name in names}, base / "model.safetensors")
    with pytest.raises(AdapterBroken, match=r"by \(8, 8\), but the base has \(8, 16\) there"):
        check_folder(published, base_folder=base)


def test_bfloat16_weights_are_checked_for_infinities(tmp_path: Path) -> None:
    def write(numbers: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Path:
        """float32's upper half is bfloat16, which numpy can't name."""
        halves = numbers.astype("<f4").view("<u2")[..., 1::2].tobytes()
        shape = list(numbers.shape)
        header = {}
        data = b""
        for half in "AB":
            header[f"base_model.model.a.q_proj.lora_{half}.weight"] = {
                "dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(halves)],
            }  # fmt: skip
            data += halves
        encoded = json.dumps(header).encode()
        path = tmp_path / WEIGHTS
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
        return path

    sound = np.full((4, 4), -3.0e38, np.float32)
    check_lora(write(sound), 4, ["q_proj"])
    for bad in (np.inf, -np.inf, np.nan):
        sound[2, 1] = bad
        with pytest.raises(AdapterBroken, match="infinite or not numbers"):
            check_lora(write(sound), 4, ["q_proj"])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_bytes_whatever_make_the_header_reader_do_anything_but_refuse(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((write_source(tmp_path / "whole") / WEIGHTS).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, 600))
        content[at : at + 1] = data.draw(st.binary(min_size=2, max_size=9))
    path = tmp_path / WEIGHTS
    path.write_bytes(content)
    try:
        check_lora(path, RANK, TARGETS)
    except AdapterBroken as error:
        assert WEIGHTS in str(error)


def test_the_header_is_read_as_safetensors_itself_reads_it(source: Path) -> None:
    theirs = {name: tensor.shape for name, tensor in load_file(source / WEIGHTS).items()}
    assert {name: tensor.shape for name, tensor in read_header(source / WEIGHTS).items()} == theirs


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


def test_an_exported_adapter_unpacks_to_the_same_files(published: Path, tmp_path: Path) -> None:
    archive, copy = tmp_path / "v1.tar", tmp_path / "copy"
    export_folder(published, archive)
    copy.mkdir()
    unpack(archive, copy)
    assert check_folder(copy) == check_folder(published)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in published.iterdir()
    }
    with pytest.raises(Conflict, match="exists already"):
        export_folder(published, archive)


def test_a_broken_adapter_is_not_exported(published: Path, tmp_path: Path) -> None:
    _flip_a_bit(published)
    with pytest.raises(AdapterBroken):
        export_folder(published, tmp_path / "v1.tar")
    assert not (tmp_path / "v1.tar").exists()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 4) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return member


@pytest.mark.parametrize(
    "members",
    [
        [_member("../manifest.json")],
        [_member("/etc/cron.d/evil")],
        [_member("folder/manifest.json")],
        [_member(MANIFEST, tarfile.SYMTYPE, "/etc/passwd")],
        [_member(MANIFEST, tarfile.LNKTYPE, "../../secret")],
        [_member(WEIGHTS, tarfile.FIFOTYPE)],
        [_member(CONFIG, tarfile.DIRTYPE)],
        [_member("adapter_model.bin")],
        [_member(CONFIG), _member(CONFIG)],
        [_member(CONFIG, size=(1 << 20) + 1)],
    ],
)
def test_an_archive_with_anything_else_in_it_is_refused_as_a_whole(
    members: list[tarfile.TarInfo], tmp_path: Path
) -> None:
    archive, target = tmp_path / "evil.tar", tmp_path / "target"
    with tarfile.open(archive, "w") as tar:
        for member in [_member(REPORT), *members]:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    target.mkdir()
    with pytest.raises(BadInput, match=r"evil\.tar"):
        unpack(archive, target)
    assert list(target.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar", "target"]


@pytest.mark.parametrize("content", [b"", b"not a tar", os.urandom(2000)])
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    (tmp_path / "target").mkdir()
    with pytest.raises(BadInput):
        unpack(tmp_path / "x.tar", tmp_path / "target")
        check_folder(tmp_path / "target")


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
