"""Bringing a database up to date when it is opened: every revision in `migrations/`, in one transaction.

Several processes may open a new database at once: the first upgrades it, the others wait for it. A database that a
newer Hone has written is left alone and refused.

To make a new revision after changing `tables.py` (the URL names any up-to-date database):
    alembic -c service/store/migrations/alembic.ini -x url=sqlite:///PATH revision --autogenerate -m "what changes"
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from service.errors import StoreError

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
_POSTGRESQL_LOCK = 0x686F6E65  # "hone": one upgrade at a time


def migrate(engine: Engine) -> None:
    """Upgrade the database to the revision that this code was written for. Raises StoreError if it is newer."""
    scripts = ScriptDirectory.from_config(_config())
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRESQL_LOCK})
        current = MigrationContext.configure(connection).get_current_revision()
        if current == scripts.get_current_head():
            return
        if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
            raise StoreError(
                f"The database is at revision {current}, which this version of Hone doesn't know: a newer one made it.",
                "Upgrade Hone, or point --home or the setting store.url at another database.",
            )
        command.upgrade(_config(connection), "head")


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
