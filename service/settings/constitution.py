"""The settings of the constitution, while serving."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.settings.section import Section


class ConstitutionSettings(Section):
    """Which principles are used, and when replies are revised by them."""

    serve: Literal["never", "asked", "always"] = Field(
        "asked",
        description="Which chats are answered by draft, critique and revision: none, those that ask for it, or all.",
    )
    tags: tuple[str, ...] = Field(
        ("harmless",), description="Only principles with one of these tags are used; none named: all."
    )
    principles: Literal["sampled", "all"] = Field(
        "sampled", description="A round criticises a served reply under one principle, drawn by weight, or under all."
    )
    rounds: int = Field(1, ge=1, le=8, description="Most critiques and revisions of a served reply.")
    budget_seconds: float = Field(
        20.0, gt=0, description="When a served reply has taken so long, the last whole text is answered as it is."
    )
    critique_tokens: int = Field(200, ge=1, description="Most tokens of a critique; a longer one is cut there.")
