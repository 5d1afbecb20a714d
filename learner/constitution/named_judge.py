"""What `constitution.judge` names: the base itself, another adapter, or an endpoint. Needs no torch."""

from __future__ import annotations

from service.settings.addresses import without_credentials
from service.settings.constitution import SELF


def is_version(judge: str) -> bool:
    """Whether the judge is another adapter, by its name."""
    return judge != SELF and not is_address(judge)


def is_address(judge: str) -> bool:
    """Whether the judge is an endpoint, and no version."""
    return judge.startswith(("http://", "https://"))


def told(judge: str) -> str:
    """Its name as a report may have it: of an address without the user and the password."""
    return without_credentials(judge) if is_address(judge) else judge
