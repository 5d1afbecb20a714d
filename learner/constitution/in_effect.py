"""The constitution that a run goes by: frozen into its folder when the run begins, whatever is in effect later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.run_folder import write_whole
from service.constitution import Constitution, parse
from service.constitution.principles import BUILT_IN
from service.errors import BadInput, TrainingFailed

FIRST = "c0"
"""The version that comes with Hone."""


@dataclass(frozen=True)
class Version:
    """A constitution with its name among the versions: `c0`, `c1`, …"""

    name: str
    text: str
    constitution: Constitution

    @property
    def identity(self) -> tuple[str, str]:
        """Name, and SHA-256 of the content."""
        return self.name, self.constitution.sha256

    def lineage(self, examples_sha256: str) -> dict[str, str]:
        """What the manifest says of an adapter that learned from what the model wrote by it."""
        name, sha256 = self.identity
        return {"name": name, "sha256": sha256, "examples_sha256": examples_sha256}


def in_effect() -> Version:
    """The version that chats and runs go by now."""
    text = BUILT_IN.read_text(encoding="utf-8")
    return Version(FIRST, text, parse(text))


def freeze(version: Version, path: Path) -> None:
    """Write its file, whole or not at all."""
    write_whole(path, version.text)


def read_frozen(path: Path, identity: tuple[str, str]) -> Version:
    """Read it back. Raises TrainingFailed when the file is missing or is no longer what was frozen."""
    try:
        text = path.read_text(encoding="utf-8")
        constitution = parse(text, str(path))
    except (OSError, UnicodeDecodeError, BadInput) as error:
        raise TrainingFailed(f"The constitution that the run froze can't be read: {error}") from error
    name, sha256 = identity
    if constitution.sha256 != sha256:
        raise TrainingFailed(f"{path} has changed since the run began: its hash is {constitution.sha256[:12]}….")
    return Version(name, text, constitution)
