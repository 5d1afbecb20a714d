"""What `constitution.judge` names: the base itself, another adapter, or an endpoint. Needs no torch."""

from __future__ import annotations

from service.adapters.registry import Registry
from service.errors import NotFound
from service.settings import Settings
from service.settings.addresses import without_credentials
from service.settings.constitution import SELF
from service.store.session import Store


def is_version(judge: str) -> bool:
    """Whether the judge is another adapter, by its name."""
    return judge != SELF and not is_address(judge)


def is_address(judge: str) -> bool:
    """Whether the judge is an endpoint, and no version."""
    return judge.startswith(("http://", "https://"))


def check_judge(settings: Settings, store: Store, method: str) -> None:
    """Whether a run by `method` has its judge, where that is another adapter: one that can be loaded.

    Raises NotFound, AdapterBroken, AdapterUnreachable.
    """
    judge = settings.constitution.judge
    if method != "rl-cai" or not is_version(judge):
        return
    try:
        Registry.of(settings, store).check(judge)
    except NotFound as error:
        raise NotFound(f"There is no adapter {judge}, which constitution.judge names.", error.hint) from error


def told(judge: str) -> str:
    """Its name as a report may have it: of an address without the user and the password."""
    return without_credentials(judge) if is_address(judge) else judge
