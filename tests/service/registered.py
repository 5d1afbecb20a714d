"""What there is of adapters: their states in the store, and the folders on the disk."""

from __future__ import annotations

from service.adapters.registry import Registry
from service.store.queries import adapters
from service.store.session import Store


def states(store: Store) -> dict[str, str]:
    with store.read() as tx:
        return {adapter.name: adapter.state for adapter in adapters.list_adapters(tx)}


def folders(registry: Registry) -> set[str]:
    return {path.name for path in registry.folder.iterdir()} - {".lock"}
