"""Who is calling, and may they: keys, browser sessions, and callers on this machine.

- A key (`Authorization: Bearer hone_…`) names its caller and role; the store holds its hash.
- A session is a signed statement of caller, role and expiry: the cookie `hone_session`, or a bearer token. One that was
  made from a key ends when the key is revoked; any other is for this machine alone. Signed with the file `secret` in
  the home folder.
- On loopback nobody needs either: callers are told apart by the name that they give (`user`, `X-Hone-User`). OpenAI
  clients always send some key there; one that isn't ours is ignored. A request that a proxy passed on isn't local, and
  with `server.require_keys`, for a proxy that doesn't say so, none is.

Operator actions need an operator's key or session everywhere, because any program on a machine can reach its loopback.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import orjson
from starlette.requests import cookie_parser

from service.errors import BadInput, Forbidden, SettingsError, Unauthorized
from service.settings import ServerSettings
from service.store.queries import keys
from service.store.queries.keys import Role
from service.store.session import Store
from service.store.tables import Key
from service.transactions import Transactions
from service.wire import MAX_NAME

COOKIE = "hone_session"
SESSION_SECONDS = 90 * 24 * 3600
CONSOLE = "console"
"""The name of the operator key that the first start makes."""
_KEY, _SESSION = "hone_", "hs."
_FROM_A_PROXY = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True)
class Caller:
    """`name` is what exchanges and feedback are kept under. `named`: not just whoever is on this machine."""

    name: str
    role: Role
    named: bool = True

    def under(self, user: str | None) -> Caller:
        """The same, told apart by the `user` of the body where nothing else names the caller."""
        return self if self.named or not user else Caller(given_name(user), "user", named=False)

    def must_be_operator(self) -> None:
        if self.role != "operator":
            raise Forbidden(
                "This is for operators.",
                "Open the operator link, or use a key of `hone keys create --role operator --name YOU`.",
            )


@dataclass(frozen=True)
class Session:
    caller: str
    role: Role
    key_prefix: str | None
    expires: int  # UNIX time, seconds


class Sessions:
    """Signs sessions and checks them (HMAC-SHA256)."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, caller: str, role: Role, key_prefix: str | None = None) -> str:
        claims = {"c": caller, "r": role, "k": key_prefix, "x": int(time.time()) + SESSION_SECONDS}
        payload = base64.urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=")
        return f"{_SESSION}{payload.decode()}.{self._signature(payload)}"

    def sign_browser(self) -> tuple[str, str]:
        """A token for a browser that nobody knows yet, and the caller that it names."""
        caller = f"browser:{secrets.token_hex(8)}"
        return self.sign(caller, "user"), caller

    def check(self, token: str) -> Session | None:
        """The session, if we signed it and it has not expired."""
        payload, _, signature = token.removeprefix(_SESSION).partition(".")
        if not token.isascii() or not hmac.compare_digest(signature, self._signature(payload.encode())):
            return None
        try:
            claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (binascii.Error, orjson.JSONDecodeError):
            return None
        session = Session(claims["c"], claims["r"], claims["k"], claims["x"])
        return session if session.expires > time.time() else None

    def _signature(self, payload: bytes) -> str:
        digest = hmac.new(self._secret, payload, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Identities:
    """Names the caller of a request. `trusts_loopback`: a caller on this machine needs no key."""

    def __init__(self, transactions: Transactions, sessions: Sessions, trusts_loopback: bool) -> None:
        self.sessions = sessions
        self.trusts_loopback = trusts_loopback
        self._transactions = transactions

    async def identify(self, headers: Mapping[str, str]) -> Caller:
        """The caller of a request with these headers.

        Raises Unauthorized when a key is needed or the one that was sent is not in force.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        if token.startswith(_KEY):
            return _caller_of(await self._key_in_force(token))
        if token.startswith(_SESSION):
            return await self.of_session(token, headers) or _refuse("This session has ended.")
        if cookie := cookie_parser(headers.get("cookie", "")).get(COOKIE):
            return await self.of_session(cookie, headers) or _refuse("This session has ended: reload the page.")
        if not self.is_local(headers):
            needed = "A request that a proxy passed on needs a key." if self.trusts_loopback else "A key is needed."
            _refuse("This key is not in force." if token else needed)
        return Caller(given_name(_as_text(headers.get("x-hone-user") or "local")), "user", named=False)

    def is_local(self, headers: Mapping[str, str]) -> bool:
        """Whether the request with these headers comes from this machine, and so needs no key."""
        return self.trusts_loopback and not any(name in headers for name in _FROM_A_PROXY)

    async def of_session(self, token: str, headers: Mapping[str, str]) -> Caller | None:
        """Whom the session names, if it is in force for a request with these headers."""
        session = self.sessions.check(token)
        if session is None:
            return None
        if session.key_prefix is None:
            in_force = self.is_local(headers)
        else:
            in_force = await self._transactions.read(keys.is_in_force, session.key_prefix)
        return Caller(session.caller, session.role) if in_force else None

    async def session_from_key(self, plain: str) -> tuple[str, Caller]:
        """Exchange a key for a session that lives no longer than it. Raises Unauthorized."""
        key = await self._key_in_force(plain)
        caller = _caller_of(key)
        return self.sessions.sign(caller.name, caller.role, key.prefix), caller

    async def _key_in_force(self, plain: str) -> Key:
        return await self._transactions.read(keys.find_key, plain) or _refuse("This key is not in force.")


def given_name(name: str) -> str:
    """The caller that somebody on this machine says to be."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise BadInput(f"A user's name has at most {MAX_NAME} characters, all printable.", param="user")
    return f"name:{name}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trusts_loopback(server: ServerSettings) -> bool:
    """Whether a service with these settings lets callers on this machine in without a key."""
    return is_loopback(server.host) and not server.require_keys


def refuse_strangers(host: str, store: Store) -> None:
    """Raises SettingsError when a service on `host` could be reached from other machines and has no key in force."""
    if is_loopback(host):
        return
    with store.read() as tx:
        if all(key.revoked_at is not None for key in keys.list_keys(tx)):
            raise SettingsError(
                f"Hone doesn't listen on {host} without keys.",
                "Make one with `hone keys create --role operator --name YOU`, or listen on 127.0.0.1.",
            )


def load_secret(home: Path) -> bytes:
    """The home's secret for signing sessions; made at first use, readable by its owner alone."""
    path = home / "secret"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temporary = home / f".secret-{secrets.token_hex(4)}"
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # unlike a rename, this keeps the one that another process made meanwhile
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        secret = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"The home folder {home} can't be used: {error.strerror}.", "Choose another one with --home."
        ) from error
    if len(secret) < 32:
        raise SettingsError(f"{path} is damaged.", "Delete it; browsers will have to sign in again.")
    return secret


def _caller_of(key: Key) -> Caller:
    return Caller(key.name, "operator" if key.role == "operator" else "user")


def _as_text(header: str) -> str:
    """A header's text: people's programs send UTF-8, which arrives here as Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _refuse(why: str) -> NoReturn:
    raise Unauthorized(why, "Send one as `Authorization: Bearer …`; `hone keys create` makes it.")
