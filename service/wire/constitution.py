"""The constitution for operators: what is in effect, what was, and what one would make of a prompt."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from service.wire.fields import Reason, Storable, Text, Wire


class PrincipleView(Wire):
    name: str
    rule: str
    tags: tuple[str, ...]
    weight: float


class ConstitutionView(Wire):
    """The constitution in effect. `is_new`: the request put it there; `warnings`: what it found."""

    name: str = Field(description="`c1`, `c2`, …; `c0` comes with Hone.")
    sha256: str = Field(description="Of its content, however the file is laid out.")
    title: str
    text: str = Field(description="The file as it was given (TOML).")
    principles: tuple[PrincipleView, ...]
    serve: Literal["never", "asked", "always"] = Field(description="The setting constitution.serve.")
    is_new: bool = False
    warnings: tuple[str, ...] = Field(
        (), description="Of a file that was checked: principles whose own words leave the model's context little room."
    )


class ConstitutionVersion(Wire):
    name: str
    sha256: str
    created_at: datetime
    created_by: str
    note: str
    text: str = Field("", description="The file; in a list it is left out.")


class ConstitutionRequest(Wire):
    """A constitution to put in effect."""

    text: Annotated[str, Storable] = Field(description="The file (TOML, docs/constitution.md).")
    note: Reason = ""


class TryRequest(Wire):
    """Try a constitution on one prompt: nothing is stored, and nothing takes effect."""

    prompt: Text
    constitution: Annotated[str, Storable] | None = Field(None, description="The file; null: the one in effect.")
    principle: str | None = Field(None, max_length=64, description="Only this one; null: all.")


class PrincipleTrial(Wire):
    """What one principle makes of the draft."""

    principle: str
    critique: str
    revision: str | None = Field(description="null: nothing is wrong, or it failed.")
    verdict: Literal["draft", "revision", "undecided"] | None = Field(
        description="Which of the two the principle finds better, by `odds`: what a chat would be answered by. "
        "Undecided: even odds, where a chat is answered by the draft."
    )
    odds: float | None = Field(
        None, description="That the revision is the better one, both orders averaged, as in a chat."
    )
    problem: str = Field("", description="Why it failed.")


class TryResult(Wire):
    constitution: str = Field(description="The version in effect; empty: the file that was sent.")
    sha256: str
    adapter: str
    prompt: str
    draft: str
    trials: tuple[PrincipleTrial, ...]
