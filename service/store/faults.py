"""What a database driver's error means for the person who runs Hone, and what they can do about it.

SQLite says it with an error name (`SQLITE_FULL`), PostgreSQL with an SQLSTATE (`53100`). Errors that only a bug of ours
can cause (a broken constraint, bad SQL) are not translated: they stay what they are and show their traceback.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import StoreError

_FULL = ("is full: nothing more can be written", "Free some space; Hone goes on by itself.")
_READ_ONLY = ("can't be written: it is read-only", "Give Hone's user the right to write the file and its folder.")
_BUSY = ("is busy: another process has been writing for too long", "Try again; if it stays so, end that process.")
_CANT_OPEN = ("can't be opened", "Check that its folder exists and that Hone's user may read and write there.")
_DAMAGED = ("is damaged or isn't a database", "Put back a backup, or move the file away to start afresh.")
_IO = ("can't be read or written: the disk reports an error", "Check the disk, its free space and its limits.")
_AWAY = ("can't be reached", "Check that the server runs and that the URL is right.")
_DENIED = ("refuses this user or password, or doesn't exist", "Check the URL, and that the database was created.")

_BY_SQLITE_NAME = {
    "SQLITE_FULL": _FULL,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_PERM": _READ_ONLY,
    "SQLITE_BUSY": _BUSY,
    "SQLITE_LOCKED": _BUSY,
    "SQLITE_CANTOPEN": _CANT_OPEN,
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_IOERR": _IO,
}
_BY_SQLSTATE = {
    "53100": _FULL,
    "25006": _READ_ONLY,
    "42501": _READ_ONLY,
    "55P03": _BUSY,
    "40P01": _BUSY,
    "40001": _BUSY,
    "53300": _BUSY,
    "3D000": _DENIED,
    "28000": _DENIED,
    "28P01": _DENIED,
    "58030": _IO,
}


def store_error(error: SQLAlchemyError | sqlite3.Error, database: str) -> StoreError | None:
    """The error in plain words, `database` being its name without a password; None when it is a bug of ours."""
    if isinstance(error, PoolTimeout):
        return _say(_BUSY, database, "")
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error, database)
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError | DataError):
        return None
    if isinstance(error.orig, sqlite3.Error):
        return _of_sqlite(error.orig, database)
    detail = _first_line(error.orig)
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate in _BY_SQLSTATE:
        return _say(_BY_SQLSTATE[sqlstate], database, detail)
    if isinstance(error, ProgrammingError):
        return None
    return _say(_DENIED if "does not exist" in detail or "authentication failed" in detail else _AWAY, database, detail)


def _of_sqlite(error: sqlite3.Error, database: str) -> StoreError | None:
    name: str = getattr(error, "sqlite_errorname", "")  # none where the driver itself refuses what it is given
    words = _BY_SQLITE_NAME.get("_".join(name.split("_")[:2]))
    return _say(words, database, _first_line(error)) if words else None


def _first_line(error: BaseException | None) -> str:
    said = str(error).strip()
    return said.splitlines()[0] if said else ""


def _say(words: tuple[str, str], database: str, detail: str) -> StoreError:
    what, hint = words
    soon = 1 if words is _BUSY else None
    return StoreError(f"The database {database} {what}{f' ({detail})' if detail else ''}.", hint, retry_after=soon)
