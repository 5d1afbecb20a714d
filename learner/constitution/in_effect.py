"""The constitution that a run goes by: frozen into its folder when the run begins, whatever is in effect later."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from learner.run_folder import write_whole
from service.constitution import parse
from service.constitution.versions import Version, built_in_version, stored_version
from service.errors import BadInput, TrainingFailed
from service.store.queries import constitutions


def in_effect(tx: Session) -> Version:
    """The version that chats and runs go by now. Raises BadInput for one that this Hone can't read."""
    row = constitutions.in_effect(tx)
    return stored_version(row.name, row.text) if row is not None else built_in_version()


def lineage(version: Version, examples_sha256: str) -> dict[str, str]:
    """What the manifest says of an adapter that learned from what the model wrote by it."""
    name, sha256 = version.identity
    return {"name": name, "sha256": sha256, "examples_sha256": examples_sha256}


def freeze(version: Version, path: Path) -> None:
    """Write its file, whole or not at all."""
    write_whole(path, version.text)


def read_frozen(path: Path, identity: tuple[str, str]) -> Version:
    """Read it back. Raises TrainingFailed when the file is missing or is no longer what was frozen."""
    try:
        text = path.read_text(encoding="utf-8")
        constitution = parse(text, str(path), is_stored=True)
    except (OSError, UnicodeDecodeError, BadInput) as error:
        raise TrainingFailed(f"The constitution that the run froze can't be read: {error}") from error
    name, sha256 = identity
    if constitution.sha256 != sha256:
        raise TrainingFailed(f"{path} has changed since the run began: its hash is {constitution.sha256[:12]}….")
    return Version(name, text, constitution)
