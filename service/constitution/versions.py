"""Constitutions by the name that they were put in effect under: `c1`, `c2`, …; `c0` is the one that comes with Hone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from service.constitution.principles import BUILT_IN, LARGER, Constitution, built_in, parse, read_text

BUILT_IN_NAME, LARGER_NAME = "c0", "larger"


@dataclass(frozen=True)
class Version:
    """`text` is the file as it was given."""

    name: str
    text: str
    constitution: Constitution

    @property
    def identity(self) -> tuple[str, str]:
        """Name, and SHA-256 of the content."""
        return self.name, self.constitution.sha256


@lru_cache(maxsize=4)
def stored_version(name: str, text: str) -> Version:
    """What the store holds. Raises BadInput where this Hone can't read it: a newer one put it in effect."""
    return Version(name, text, parse(text, f"The constitution {name}", is_stored=True))


def built_in_version() -> Version:
    return Version(BUILT_IN_NAME, BUILT_IN.read_text(encoding="utf-8"), built_in())


def for_larger_models() -> Version:
    """A constitution to begin with, written out. It is no version of the store's."""
    text = read_text(LARGER)
    return Version(LARGER_NAME, text, parse(text, str(LARGER)))
