"""Who calls a service with a key of their own."""

from service.store.queries import keys
from service.store.session import Store


def new_key(store: Store, role: keys.Role, name: str) -> str:
    with store.begin() as tx:
        return keys.create_key(tx, role, name)
