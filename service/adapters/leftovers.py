"""What lies among the adapters, or at their shared place, and no row of the store vouches for.

Half of it is what dead publishers left: it is cleared away. The rest is another store's (this one is new here, or was
restored from a backup): a store has a row of everything that it began. That is set aside, because its name will be
wanted, and never removed. Whoever calls this holds the publishers' lock (`Registry`).
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

from service.adapters.files import UNREGISTERED, is_sound, read_manifest, remove_folder, set_aside, unwritable
from service.adapters.manifest import UNFINISHED
from service.adapters.place import Place
from service.errors import AdapterBroken, AdapterUnreachable
from service.store.clock import now
from service.store.queries import adapters
from service.store.session import Store
from service.store.tables import Adapter

_log = logging.getLogger(__name__)
LONGEST_PUBLISHING = timedelta(days=1)
"""Where homes share a place, what was begun longer ago belongs to nobody alive."""


class Leftovers:
    def __init__(self, store: Store, folder: Path, shared: Place | None) -> None:
        self._store, self._folder, self._shared = store, folder, shared

    def clear(self, run_id: str | None) -> list[str]:
        """Clear away what dead publishers left; returns what was done, in words. `run_id`: the caller's own run."""
        with self._store.begin() as tx:
            if self._shared is None:
                abandoned = adapters.abandon_publishing(tx, None)
            else:  # another home's publisher is not to be told from a dead one
                abandoned = adapters.abandon_publishing(tx, None, before=now() - LONGEST_PUBLISHING)
                abandoned += adapters.abandon_publishing(tx, run_id) if run_id is not None else []
        known = self.set_unregistered_aside()
        never_registered = {name for name, row in known.items() if row.manifest_hash is None}
        done = [f"{name} was never completely published: rejected." for name in abandoned]
        try:
            done += self.clear_shared()
        except AdapterUnreachable as error:
            done.append(f"What nobody registered could not be looked for. {error}")
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(UNFINISHED) or path.name in never_registered:
                remove_folder(path)
                done.append(f"Removed {path}, which was never registered.")
        return done

    def set_unregistered_aside(self) -> dict[str, Adapter]:
        """Free the names of adapters that are another store's; returns this one's, by name. Raises StoreError.

        What is this one's and was set aside while another was used gets its name back.
        """
        with self._store.read() as tx:
            known = {row.name: row for row in adapters.list_adapters(tx)}
        try:
            for path in sorted(self._folder.iterdir()):
                if adapters.number_of(path.name) is not None and _is_unregistered(path, known.get(path.name)):
                    self.set_aside(path, "is not this store's")
            for path in sorted(self._folder.glob(f"*{UNREGISTERED}*")):
                name = path.name.partition(UNREGISTERED)[0]
                hash_here = known[name].manifest_hash if name in known else None
                if hash_here and not (self._folder / name).exists() and is_sound(path, hash_here):
                    path.rename(self._folder / name)
                    _log.warning("%s is %s again: it is this store's.", path, name)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return known

    def set_aside(self, path: Path, why: str) -> None:
        """Free the name that it has; the log tells how it can be had again."""
        aside = set_aside(path)
        how = f"`hone adapters import file://{aside}` makes it an adapter here."
        _log.warning("%s %s: it is called %s now. %s", path, why, aside.name, how)

    def clear_shared(self) -> list[str]:
        """Remove from the shared place what was given up before it was registered; returns what was done, in words.

        Should another store's adapters be there by mistake, theirs stay: they were not made when ours were.
        """
        if self._shared is None:
            return []
        with self._store.read() as tx:
            rows = adapters.list_adapters(tx)
            made = {row.name: row.created_at for row in rows if row.manifest_hash is None and row.state == "rejected"}
        done = []
        for name in sorted(made.keys() & set(self._shared.names())):
            place = self._shared / name
            if place.created_at() in (None, made[name]):
                place.remove()
                done.append(f"Removed {place.url}, which was never registered.")
        return done


def _is_unregistered(path: Path, row: Adapter | None) -> bool:
    """Whether what lies under a version's name isn't what this store, by its row, gave that name to."""
    if row is None or row.manifest_hash is not None:
        return row is None
    try:
        return read_manifest(path).created_at != row.created_at
    except AdapterBroken:
        return False  # nothing tells
    except AdapterUnreachable:
        return True
