"""What the store says should be served, and the changes to it that only the rollout makes, each in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Collection

from service.adapters.replica import NotServed
from service.errors import AdapterBroken
from service.store.queries import adapters
from service.store.queries.adapters import BASE, ROLLOUT
from service.store.session import Store
from service.store.tables import Serving

_log = logging.getLogger(__name__)


class Pointer:
    """The live pointer and what is asked for. All of it waits for the store: call it beside the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> Serving:
        with self._store.read() as tx:
            return adapters.serving(tx)

    def flip(self, name: str, proof: str) -> None:
        """Make what was asked for live, unless something else is asked for by now."""
        with self._store.begin() as tx:
            if adapters.fulfil_request(tx, name, proof):
                _log.info("%s is live. %s", name, proof)

    def put_aside(self, name: str, error: AdapterBroken) -> None:
        """Reject it; but if it has been live before and its folder is sound, only drop what was asked for."""
        _log.warning("%s", error)
        with self._store.begin() as tx:
            desired, adapter = adapters.serving(tx), adapters.get_adapter(tx, name)
            if isinstance(error, NotServed) and adapter is not None and adapter.state == "retired":
                if desired.requested == name:
                    adapters.clear_request(tx, str(error))
            else:
                adapters.set_state(tx, name, "rejected", ROLLOUT, str(error))

    def replace_live(self, name: str, error: AdapterBroken, tried: Collection[str]) -> None:
        """Flip to what was live before, if that was not tried yet, else to the base."""
        with self._store.begin() as tx:
            desired = adapters.serving(tx)
            if desired.live != name:
                return
            previous = adapters.get_adapter(tx, desired.previous)
            may_serve = previous is not None and previous.state == "retired" and previous.name not in tried
            successor = desired.previous if may_serve else BASE
            adapters.flip_live(tx, successor, ROLLOUT, f"{name} can't be served any more. {error}")
            if not isinstance(error, NotServed):
                adapters.set_state(tx, name, "rejected", ROLLOUT, str(error))
        _log.error("%s can't be served any more; %s is live. %s", name, successor, error)

    def note_waiting(self, problem: str) -> None:
        """Put it into the history of the adapter that waits because of it."""
        with self._store.begin() as tx:
            if (waiting := adapters.serving(tx).requested) is not None:
                adapters.note(tx, waiting, "waiting", problem)
