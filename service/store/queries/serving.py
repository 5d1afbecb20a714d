"""The desired state of serving: what is live, what somebody asked for, the canary; and what that does to an adapter.

`request_live` only writes the wish; the service's rollout loads and proves the adapter, then `flip_live` moves the
pointer. What has been live, or could be served by engines set up otherwise, is not rejected: `put_aside`. Everything
here that changes something also writes an event, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from service.errors import BadInput, Conflict
from service.store.clock import now
from service.store.queries.adapters import BASE, ROLLOUT, get_adapter, get_locked, move, note, number_of
from service.store.session import serialise
from service.store.tables import Adapter, AdapterEventRow, Serving

_LIVE = "live"
"""The action of what went live; the base too."""
_REPLACED = "replaced"
"""The action of an adapter that was live and could not be served any more."""


def desired_state(tx: Session) -> Serving:
    """The desired state: what is live, what is asked for, the canary."""
    return tx.get_one(Serving, 1)


def set_state(
    tx: Session, name: str, state: Literal["candidate", "retired", "rejected"], actor: str, reason: str
) -> Adapter:
    """Retire or reject an adapter, or make it a candidate. A request for it, or its canary, ends with that.

    Raises NotFound, and Conflict for the live adapter (flip to another first) and for one that was rejected, whose
    reason stays.
    """
    adapter = get_locked(tx, name)
    desired = desired_state(tx)
    if desired.live == name:
        raise Conflict(f"{name} is live.", "Promote another one or roll back first.")
    if adapter.state == "rejected":
        already, hint = (" already", "") if state == "rejected" else ("", "A rejected adapter stays so; learn again.")
        raise Conflict(f"{name} was rejected{already}: {adapter.reason}", hint)
    if desired.requested == name and state == "rejected":
        _forget_request(desired)
    if desired.canary == name:
        _forget_canary(desired)
    move(tx, adapter, state, state, actor, reason)
    return adapter


def put_aside(tx: Session, name: str, reason: str, for_good: bool = True) -> None:
    """Take out what was asked for, or is the canary, and can't be served.

    One that has been live was good once: it is retired and may be asked for again. Any other is rejected, or, if not
    `for_good`, a candidate again. Nothing happens to one that somebody else has rejected or made live meanwhile.
    Raises NotFound.
    """
    adapter = get_locked(tx, name)
    if adapter.state in ("rejected", "live"):
        return
    rest = _at_rest(tx, name)
    if for_good and rest == "candidate":
        set_state(tx, name, "rejected", ROLLOUT, reason)
        return
    desired = _locked(tx)
    if desired.requested == name:
        clear_request(tx, reason)
    if desired.canary == name:
        _forget_canary(desired)
    move(tx, adapter, rest, "put aside", ROLLOUT, reason)


def replace_live(tx: Session, successor: str, reason: str) -> None:
    """Flip from what is live and can't be served any more to what can. It is retired, and may be asked for again."""
    lost = _locked(tx).live
    flip_live(tx, successor, ROLLOUT, f"{lost} can't be served any more. {reason}")
    move(tx, get_locked(tx, lost), "retired", _REPLACED, ROLLOUT, reason)


def replaced(tx: Session) -> dict[str, str]:
    """What had to be replaced as live, oldest first, and why; empty once something that was asked for is live."""
    query = select(AdapterEventRow).where(AdapterEventRow.action.in_((_LIVE, _REPLACED)))
    newest_first = tx.scalars(query.order_by(AdapterEventRow.id.desc()).limit(20)).all()
    since = takewhile(lambda event: event.action == _REPLACED or event.actor == ROLLOUT, newest_first)
    oldest_first = reversed([event for event in since if event.action == _REPLACED])
    return {event.adapter: event.reason for event in oldest_first}


def request_live(tx: Session, name: str, actor: str, reason: str) -> Serving:
    """Ask for an adapter, or `base`, to go live; a request before it is given up. Asking for what is live keeps it.

    Raises NotFound, and Conflict for one that was rejected or isn't published.
    """
    desired = _locked(tx)
    if name != BASE:
        _servable(tx, name)
    if desired.requested is not None and desired.requested != name:
        note(tx, desired.requested, "request dropped", f"{name} was asked for instead.", actor)
    if name == desired.live:
        if desired.requested is None:
            raise Conflict(f"{name} is live already.")
        _forget_request(desired)
        return desired
    desired.requested, desired.requested_by, desired.requested_reason = name, actor, reason
    desired.changed_at = now()
    note(tx, name, "requested", reason, actor)
    return desired


def rollback_target(tx: Session, to: str | None) -> str:
    """`to`, or else what was live before. Raises Conflict when that is live, or was rejected since it was live."""
    desired = desired_state(tx)
    target = to or desired.previous
    if target == desired.live:
        hint = "Name another version, or base." if to else "Name a version, or base."
        raise Conflict(f"There is nothing to roll back to: {target} is live.", hint)
    before = get_adapter(tx, target) if to is None else None
    if before is not None and before.state == "rejected":
        raise Conflict(
            f"{target}, which was live before, was rejected: {before.reason}",
            "Say where to go: `rollback base`, or `rollback vN`.",
        )
    return target


def request_rollback(tx: Session, to: str | None, actor: str, reason: str) -> Serving:
    """Ask for `to`, or else for what was live before. Raises as `rollback_target` and `request_live`."""
    live = _locked(tx).live
    return request_live(tx, rollback_target(tx, to), actor, reason or f"Rolled back from {live}.")


def clear_request(tx: Session, reason: str, actor: str = ROLLOUT) -> None:
    """Give up the request, if there is one."""
    desired = _locked(tx)
    if desired.requested is not None:
        note(tx, desired.requested, "request dropped", reason, actor)
        _forget_request(desired)


def fulfil_request(tx: Session, name: str, proof: str) -> bool:
    """Flip to the adapter that was asked for, once it is proven; False when something else is asked for by now."""
    desired = _locked(tx)
    if desired.requested != name:
        return False
    if desired.live == name:
        _forget_request(desired)
        return True
    flip_live(tx, name, desired.requested_by or ROLLOUT, f"{desired.requested_reason or ''} {proof}".strip())
    return True


def flip_live(tx: Session, name: str, actor: str, reason: str) -> Serving:
    """Move the live pointer, now. Only for what is loaded and proven; the one before is retired and remembered."""
    desired = _locked(tx)
    if name == desired.live:
        raise Conflict(f"{name} is live already.")
    if name != BASE:
        move(tx, _servable(tx, name), "live", _LIVE, actor, reason)
    else:
        note(tx, BASE, _LIVE, reason, actor)
    if desired.live != BASE:
        move(tx, get_locked(tx, desired.live), "retired", "retired", actor, f"{name} took over: {reason}")
    if desired.canary == name:
        desired.canary, desired.canary_share = None, 0.0
    if desired.requested == name:
        _forget_request(desired)
    desired.previous, desired.live, desired.changed_at = _live_before(tx), name, now()
    return desired


def last_flip(tx: Session) -> AdapterEventRow | None:
    """When something last went live, by whose word and why; None before the first."""
    newest_first = select(AdapterEventRow).where(AdapterEventRow.action == _LIVE).order_by(AdapterEventRow.id.desc())
    return tx.scalar(newest_first.limit(1))


def has_been_live(tx: Session, name: str) -> bool:
    """Whether an adapter is live, or ever was."""
    return bool(tx.scalar(select(exists().where(AdapterEventRow.adapter == name, AdapterEventRow.action == _LIVE))))


def newest_left(tx: Session) -> str | None:
    """The newest adapter that has been live, where something older is now; None where nothing was gone back from."""
    live = _number(desired_state(tx).live)
    newest = max((_number(name) for name in _went_live(tx)), default=0)
    return f"v{newest}" if newest > live else None


def check_share(share: float) -> None:
    """Raises BadInput unless a canary can answer this share of the conversations."""
    if not 0 < share < 1:
        raise BadInput(f"A canary's share is between 0 and 1, not {share}.", param="share")


def set_canary(tx: Session, name: str, share: float, actor: str, reason: str) -> Serving:
    """Let an adapter answer a share of the conversations, once the rollout has loaded and proven it.

    Raises NotFound, BadInput for a share outside (0, 1), Conflict for one that is live or can't be served.
    """
    check_share(share)
    desired = _locked(tx)
    if name == desired.live:
        raise Conflict(f"{name} is live already.")
    adapter = _servable(tx, name)
    if desired.canary not in (None, name):
        clear_canary(tx, actor, f"{name} became the canary.")
    move(tx, adapter, "canary", "canary", actor, reason)
    desired.canary, desired.canary_share, desired.changed_at = name, share, now()
    return desired


def clear_canary(tx: Session, actor: str, reason: str) -> Serving:
    """End the canary, if there is one; it is a candidate again, or retired if it was live before."""
    desired = _locked(tx)
    if (name := desired.canary) is not None:
        move(tx, get_locked(tx, name), _at_rest(tx, name), "canary ended", actor, reason)
        _forget_canary(desired)
    return desired


def _live_before(tx: Session) -> str:
    """What was live before what is now; going back undoes what came after, so it is never what one went back from."""
    line = [BASE]
    for name in _went_live(tx):
        if name in line:
            del line[line.index(name) + 1 :]
        else:
            line.append(name)
    return line[-2] if len(line) > 1 else BASE


def _went_live(tx: Session) -> Sequence[str]:
    """The names of what went live, oldest first; those that did so more than once as often."""
    went = select(AdapterEventRow.adapter).where(AdapterEventRow.action == _LIVE).order_by(AdapterEventRow.id)
    return tx.scalars(went).all()


def _number(name: str) -> int:
    return number_of(name) or 0


def _at_rest(tx: Session, name: str) -> Literal["retired", "candidate"]:
    """The state of an adapter that is neither live nor the canary, by whether it has ever been live."""
    return "retired" if has_been_live(tx, name) else "candidate"


def _servable(tx: Session, name: str) -> Adapter:
    adapter = get_locked(tx, name)
    if adapter.state == "rejected":
        raise Conflict(f"{name} was rejected: {adapter.reason}", "A rejected adapter stays so; learn again.")
    if adapter.state == "publishing":
        raise Conflict(f"{name} isn't published yet.", "Wait until it is a candidate.")
    return adapter


def _locked(tx: Session) -> Serving:
    serialise(tx, "adapters")
    return tx.get_one(Serving, 1, populate_existing=True)


def _forget_request(desired: Serving) -> None:
    desired.requested = desired.requested_by = desired.requested_reason = None
    desired.changed_at = now()


def _forget_canary(desired: Serving) -> None:
    desired.canary, desired.canary_share, desired.changed_at = None, 0.0, now()
