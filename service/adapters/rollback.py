"""Where a rollback goes, looked at before anybody is asked to go there."""

from __future__ import annotations

from service.adapters.registry import Registry
from service.errors import AdapterBroken
from service.store.queries import serving
from service.store.queries.adapters import BASE


def way_back(registry: Registry, to: str | None) -> str:
    """`to`, or else what was live before, with its files checked, whatever an engine still holds of it.

    Raises Conflict where there is nothing to roll back to, and as `Registry.check`.
    """
    with registry.store.read() as tx:
        target, live = serving.rollback_target(tx, to), serving.desired_state(tx).live
    if target == BASE:
        return target
    try:
        registry.check(target)
    except AdapterBroken as error:
        advice = f"{error.hint} Until then {live} stays live; or roll back to another version, or to base."
        raise AdapterBroken(error.message, advice.strip()) from error
    return target
