"""Adapter folders: written once, completely or not at all, and checked byte by byte before anyone serves them.

A folder is written beside its place under a hidden name, flushed to the disk and renamed: whoever sees `v12` sees all
of it, whatever was killed and when.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.adapters.manifest import CONFIG, JUDGE, MANIFEST, REPORT, UNFINISHED, WEIGHTS, FileEntry, Manifest
from service.adapters.weights import RESTORE, base_shapes, broken, check_lora, reading, unreadable
from service.errors import AdapterBroken, AdapterUnreachable, Conflict, StoreError

UNREGISTERED = ".unregistered-"
"""Follows the name that a folder had before it was set aside."""

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
_BLOCK = 1 << 20


def publish_folder(
    source: Path, adapters_folder: Path, manifest: Manifest, report: dict[str, Any] | None = None
) -> Path:
    """Copy an adapter from `source` to `adapters_folder/NAME`, with its manifest; returns that folder.

    Taken are the configuration, the weights, the judge if there is one, and the report (`report.json`, unless given);
    the manifest's `files` are filled in here. Raises AdapterBroken when the source is no good, Conflict when the name
    is taken, StoreError when the disk is full or read-only; then nothing is left behind.
    """
    target = adapters_folder / manifest.name
    if target.exists():
        raise Conflict(f"The folder {target} exists already.", "An adapter's name is used once; reserve a new one.")
    with writing(target) as unfinished:
        _fill(unfinished, source, manifest, report)
        check_folder(unfinished)
    return target


@contextmanager
def writing(target: Path, what: str = "adapter") -> Iterator[Path]:
    """A folder to fill, beside `target`; after the block it is flushed and renamed to that, or else removed.

    Raises StoreError when the disk is full or read-only.
    """
    unfinished = target.with_name(f"{UNFINISHED}{target.name}-{secrets.token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        flush(unfinished)
        unfinished.rename(target)
        flush(target.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StoreError(
            f"Can't write {what} {target.name} to {target.parent}: {error.strerror or error}.",
            "Free some space there and see that Hone may write; then try again.",
        ) from error
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def check_folder(path: Path, manifest_hash: str | None = None, base_folder: Path | None = None) -> Manifest:
    """Check everything about an adapter's folder: files, sizes, hashes, shapes, numbers.

    `manifest_hash`: what the store knows of it; `base_folder`: the base model's, to compare shapes with. Raises
    AdapterBroken, which names the file and what is wrong with it, and AdapterUnreachable when one can't be read now.
    """
    manifest = check_sizes(path, manifest_hash)
    for name, entry in manifest.files.items():
        _check_content(path / name, entry)
    _check_config(path / CONFIG, manifest)
    shapes = base_shapes(base_folder) if base_folder is not None else None
    check_lora(path / WEIGHTS, manifest.rank, manifest.target_modules, shapes)
    return manifest


def check_sizes(path: Path, manifest_hash: str | None = None) -> Manifest:
    """Check the manifest, and that every file it lists is there, in full. Raises AdapterBroken, AdapterUnreachable."""
    manifest = read_manifest(path, manifest_hash)
    _check_names(path, manifest)
    for name, entry in manifest.files.items():
        _check_size(path / name, entry)
    return manifest


def read_manifest(path: Path, manifest_hash: str | None = None) -> Manifest:
    """The manifest of an adapter's folder, checked against its hash if one is given.

    Raises AdapterBroken, AdapterUnreachable. Where a missing folder was says the hint: who isn't to know leaves it out.
    """
    try:
        content = _read(path / MANIFEST)
    except AdapterBroken:
        with reading(path / MANIFEST):
            is_there = path.is_dir()
        if is_there:
            raise
        raise AdapterBroken(f"Adapter {path.name}: its folder is missing.", f"{RESTORE} Its place is {path}.") from None
    if manifest_hash is not None and hashlib.sha256(content).hexdigest() != manifest_hash:
        raise broken(path / MANIFEST, "was changed after it was published")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise broken(path / MANIFEST, f"is no manifest: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def remove_folder(path: Path) -> None:
    """Remove a folder so that, whenever this is interrupted, nobody takes what is left for an adapter."""
    if not path.name.startswith(UNFINISHED):
        path = path.rename(path.with_name(f"{UNFINISHED}{path.name}-{secrets.token_hex(4)}"))
        flush(path.parent)
    shutil.rmtree(path)


def set_aside(path: Path) -> Path:
    """Rename a folder, so that its name is free and nobody takes it for an adapter; returns where it is now."""
    aside = path.rename(path.with_name(f"{path.name}{UNREGISTERED}{secrets.token_hex(4)}"))
    flush(aside.parent)
    return aside


def is_sound(path: Path, manifest_hash: str | None = None) -> bool | None:
    """Whether a folder is what was published, whatever the base; without a hash, whether it is any adapter's.

    None while that can't be read.
    """
    try:
        check_folder(path, manifest_hash)
    except AdapterBroken:
        return False
    except AdapterUnreachable:
        return None
    return True


def unwritable(folder: Path, error: OSError) -> AdapterUnreachable:
    """What to raise where nothing can be written now. It may pass, and says nothing of any adapter."""
    what = f"Can't write to {folder}: {error.strerror}."
    return AdapterUnreachable(what, "Give Hone's user the right to write there.")


def _fill(folder: Path, source: Path, manifest: Manifest, report: dict[str, Any] | None) -> None:
    names = (CONFIG, WEIGHTS, REPORT, *([JUDGE] if (source / JUDGE).exists() else []))
    contents: dict[str, Iterable[bytes]] = {name: _blocks(source / name) for name in names}
    if report is not None:
        contents[REPORT] = (json.dumps(report, indent=1).encode(),)
    files = {name: write_file(folder / name, content) for name, content in contents.items()}
    write_file(folder / MANIFEST, (manifest.model_copy(update={"files": files}).encoded(),))


def write_file(path: Path, content: Iterable[bytes]) -> FileEntry:
    """Write a new file, flush it to the disk and make it read-only; returns what was written."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for block in content:
            digest.update(block)
            size += file.write(block)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o444)
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def _blocks(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise broken(path, "is missing" + (_other_weights(path.parent) if path.name == WEIGHTS else ""))
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _other_weights(folder: Path) -> str:
    pickles = [path.name for path in folder.iterdir() if path.suffix in _PICKLES] if folder.is_dir() else []
    return f"; {pickles[0]} is a pickle, which can run code and is never loaded" if pickles else ""


def _check_names(path: Path, manifest: Manifest) -> None:
    try:
        with os.scandir(path) as entries:
            are_plain = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    except OSError as error:
        raise unreadable(path, "its folder", error) from error
    for name, is_plain in sorted(are_plain.items()):
        found = path / name
        if found.suffix in _PICKLES:
            raise broken(found, "is a pickle, which can run code: it is never loaded")
        if name != MANIFEST and name not in manifest.files:
            raise broken(found, "is not in the manifest")
        if not is_plain:
            raise broken(found, "is not a plain file")
    if missing := {CONFIG, WEIGHTS, REPORT} - set(manifest.files):
        raise broken(path / MANIFEST, f"doesn't list {min(missing)}")


def _check_size(path: Path, entry: FileEntry) -> None:
    with reading(path):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise broken(path, "is missing")
    if (size := found.st_size) != entry.bytes:
        raise broken(path, f"is {'truncated' if size < entry.bytes else 'too long'}: {size} of {entry.bytes} bytes")


def _check_content(path: Path, entry: FileEntry) -> None:
    with reading(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise broken(path, "was changed after it was published: its SHA-256 is another")


def _check_config(path: Path, manifest: Manifest) -> None:
    try:
        config = json.loads(_read(path))
        targets = config["target_modules"]
        facts = {"peft_type": config["peft_type"], "r": config["r"], "lora_alpha": float(config["lora_alpha"])}
    except (ValueError, KeyError, TypeError) as error:
        raise broken(path, f"is no LoRA configuration ({error})") from error
    for key, wanted in {"peft_type": "LORA", "r": manifest.rank, "lora_alpha": manifest.alpha}.items():
        if facts[key] != wanted:
            raise broken(path, f"says {key} = {facts[key]!r}, and the manifest {wanted!r}")
    if not isinstance(targets, list) or set(targets) != set(manifest.target_modules):
        raise broken(path, f"has target_modules {targets!r}, and the manifest {list(manifest.target_modules)!r}")
    for key in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"):
        if config.get(key):
            raise broken(path, f"uses {key}, which engines don't serve")
    if config.get("bias", "none") != "none":
        raise broken(path, "trains biases, which engines don't serve")


def _read(path: Path) -> bytes:
    with reading(path):
        return path.read_bytes()


def flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
