"""What `hone doctor` says of the adapters: whether those that serve, or would, are sound, and what lies beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from service.adapters.files import UNREGISTERED, check_folder
from service.adapters.place import Place
from service.errors import AdapterBroken, AdapterUnreachable
from service.settings import Settings
from service.store.queries import adapters, serving
from service.store.session import Store

Health = tuple[str, bool | None, str, str]
"""What was looked at, whether it is good (None: only worth knowing), what was found, what to do."""


def examine_adapters(settings: Settings) -> Iterator[Health]:
    """Nothing is fetched or changed. Raises what the store and the place where adapters are shared raise."""
    folder = settings.adapters_folder
    if aside := sorted(folder.glob(f"*{UNREGISTERED}*")):
        found = f"{', '.join(path.name for path in aside)} in {folder}: not this store's, or unreadable"
        advice = f"`hone adapters import file://{aside[0]}` makes the first an adapter here; remove what nobody wants."
        yield "set aside", None, found, advice
    if settings.store_is_made:
        yield from _serving(settings)
    if settings.adapters.url is not None:
        place = Place(settings.adapters.url)
        yield "adapters", True, f"{place.url} can be read; {len(place.names())} there", ""


def _serving(settings: Settings) -> Iterator[Health]:
    with closing(Store.open(settings.store_url, checkpoints=False)) as store, store.read() as tx:
        desired = serving.desired_state(tx)
        named = dict.fromkeys((desired.live, desired.canary, desired.previous))
        rows = [row for name in named if name and (row := adapters.get_adapter(tx, name)) is not None]
        known = [(row.name, row.manifest_hash, row.state) for row in rows if row.manifest_hash is not None]
    for name, manifest_hash, state in known:
        try:
            check_folder(settings.adapters_folder / name, manifest_hash)
        except (AdapterBroken, AdapterUnreachable) as error:
            if settings.adapters.url is not None:
                yield "adapters", None, f"{error.message} ({state})", "It is fetched again when it is needed."
                continue
            advice = f"Put {settings.adapters_folder / name} back from a backup, or learn again"
            yield "adapters", False, f"{error.message} ({state})", f"{advice}: engines that start now can't serve it."
