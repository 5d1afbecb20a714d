"""Keeps other sites' pages out: checks `Host` against DNS rebinding and `Origin` against cross-site requests.

On loopback a web page from anywhere can make the visitor's browser talk to this service, and needs no key for that. It
can't forge these two headers. `Host` must name this machine, unless that needs a key, too; `Origin`, where a browser
sends one, this service or one of the setting server.allowed_origins.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth import is_loopback
from service.error_handlers import answer
from service.errors import Forbidden


class OriginCheck:
    """Pure ASGI middleware."""

    def __init__(self, app: ASGIApp, trusts_loopback: bool, allowed_origins: Collection[str]) -> None:
        self.app, self.trusts_loopback = app, trusts_loopback
        self.allowed_origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(Headers(scope=scope))):
            return await answer(refusal)(scope, receive, send)
        return await self.app(scope, receive, send)

    def _refusal(self, headers: Headers) -> Forbidden | None:
        host = headers.get("host", "")
        if self.trusts_loopback and not _names_this_machine(host):
            return Forbidden(
                f"This service answers on this machine only, not as {host!r}.",
                "Use http://127.0.0.1; behind a proxy, set server.require_keys.",
            )
        origin = headers.get("origin")
        if origin is None or origin in self.allowed_origins or origin.partition("://")[1:] == ("://", host):
            return None
        return Forbidden(
            f"Pages of {origin} may not use this service.", "Name it in the setting server.allowed_origins."
        )


@lru_cache(maxsize=64)
def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:  # half an IPv6 address, and the like
        return False
    return is_loopback(name) or name.endswith(".localhost")
