"""What the store says should be served, and the changes to it that only the rollout makes, each in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Collection

from service.adapters.refusals import RefusedByEngine
from service.errors import AdapterBroken, AdapterUnreachable
from service.store.queries import adapters, serving
from service.store.queries.adapters import BASE
from service.store.session import Store
from service.store.tables import Serving

_log = logging.getLogger(__name__)


class Pointer:
    """The live pointer and what is asked for. All of it waits for the store: call it beside the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> Serving:
        with self._store.read() as tx:
            return serving.desired_state(tx)

    def flip(self, name: str, proof: str) -> None:
        """Make what was asked for live, unless something else is asked for by now."""
        with self._store.begin() as tx:
            if serving.fulfil_request(tx, name, proof):
                _log.info("%s is live. %s", name, proof)

    def put_aside(self, name: str, error: AdapterBroken) -> None:
        """Drop what was asked for, or the canary: rejected, unless it was live before or the engines can be mended."""
        _log.warning("%s", error)
        with self._store.begin() as tx:
            serving.put_aside(tx, name, str(error), for_good=not isinstance(error, RefusedByEngine))

    def replace_live(self, name: str, error: AdapterBroken | AdapterUnreachable, tried: Collection[str]) -> None:
        """Flip to what was live before, if that was not tried yet, else to the base."""
        with self._store.begin() as tx:
            desired = serving.desired_state(tx)
            if desired.live != name:
                return
            previous = adapters.get_adapter(tx, desired.previous)
            may_serve = previous is not None and previous.state != "rejected" and previous.name not in tried
            successor = desired.previous if may_serve else BASE
            serving.replace_live(tx, successor, str(error))
        _log.error("%s can't be served any more; %s is live. %s", name, successor, error)

    def note_waiting(self, name: str, why: str) -> None:
        """Put it into the history of the adapter that waits."""
        with self._store.begin() as tx:
            adapters.note(tx, name, "waiting", why)
