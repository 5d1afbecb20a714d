"""API keys: `hone_PREFIX_SECRET`, 256 random bits, kept as a SHA-256 hash and found by their prefix.

A slow password hash would add nothing: nobody guesses 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import BadInput, NotFound
from service.store.clock import now
from service.store.queries.adapters import ACTORS
from service.store.tables import Key
from service.wire import MAX_NAME

Role = Literal["user", "operator"]


def create_key(tx: Session, role: Role, name: str) -> str:
    """A new key in plain text, which can't be read again. `name` is the caller that it stands for."""
    name = name.strip()
    if not name:
        raise BadInput("A key needs a name.", "Name the person or program that will use it.")
    if name in ACTORS:
        raise BadInput(f"A key can't be named {name}: Hone itself goes by that name.", "Choose another name.")
    if len(name) > MAX_NAME or not name.isprintable():
        raise BadInput(f"A key's name has at most {MAX_NAME} characters, all printable.")
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    plain = f"hone_{prefix}_{secret}"
    tx.add(Key(prefix=prefix, secret_hash=_hash(plain), role=role, name=name, created_at=now()))
    tx.flush()
    return plain


def find_key(tx: Session, plain: str) -> Key | None:
    """The key in force that this secret belongs to."""
    parts = plain.split("_", 2)
    key = tx.get(Key, parts[1]) if len(parts) == 3 and parts[0] == "hone" else None
    if key is None or key.revoked_at is not None or not hmac.compare_digest(key.secret_hash, _hash(plain)):
        return None
    return key


def is_in_force(tx: Session, prefix: str) -> bool:
    """Whether the key with this prefix exists and was not revoked."""
    key = tx.get(Key, prefix)
    return key is not None and key.revoked_at is None


def list_keys(tx: Session) -> Sequence[Key]:
    """Every key, revoked ones too, oldest first."""
    return tx.scalars(select(Key).order_by(Key.created_at, Key.prefix)).all()


def revoke_key(tx: Session, prefix: str) -> Key:
    """Put a key out of force, for ever. Raises NotFound."""
    key = tx.get(Key, prefix)
    if key is None:
        raise NotFound(f"There is no key {prefix!r}.", "`hone keys list` shows them.")
    key.revoked_at = key.revoked_at or now()
    return key


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
