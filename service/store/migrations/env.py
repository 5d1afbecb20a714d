"""Alembic's entry: at run time on the connection that `service.store.migrate` hands over, else on `-x url=…`."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, TypeDecorator, create_engine

from service.store.tables import Table


def plain_types(kind: str, item: Any, _autogenerate: Any) -> str | Literal[False]:
    """Revisions name the database's types, so that they stay true when our own types change."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


def run(connection: Connection) -> None:
    context.configure(connection, target_metadata=Table.metadata, render_as_batch=True, render_item=plain_types)
    with context.begin_transaction():
        context.run_migrations()


if handed_over := context.config.attributes.get("connection"):
    run(handed_over)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as own:
        run(own)
