"""The door of the pages: who may see which, and how a browser gets its identity.

Pure ASGI middleware before the mounted pages. On this machine every browser gets an identity of its own with its first
look at the chat page, and keeps it for as long as it comes back. Elsewhere all that belongs to the pages needs a
session, because they call the API from this machine: the sign-in form exchanges a key for one. Everything under
`/operator` is for operators' sessions; the operator link (`/operator?key=…`) is exchanged for one at once, so that the
key leaves the address bar.
"""

from __future__ import annotations

import time
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import COOKIE, SESSION_SECONDS, Caller, Identities
from service.error_handlers import answer
from service.errors import Forbidden, HoneError, Unauthorized
from service.pages import NO_PAGES
from service.routes.sessions import session_cookie, sign_in_page

_PAGES = ("/", "/operator", "/operator/")
_NO_KEY = ("/login", "/pieces.css", "/openapi.json")


class Door:
    def __init__(self, app: ASGIApp, identities: Identities) -> None:
        self.app, self.identities = app, identities

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(NO_PAGES) or scope["path"] in _NO_KEY:
            return await self.app(scope, receive, send)  # the API asks for itself who is calling
        headers = Headers(scope=scope)
        try:
            visitor = await self._visitor(headers)
            response = await self._stop(scope, visitor, self.identities.is_local(headers))
        except HoneError as error:
            response = answer(error)
        if response is not None:
            return await response(scope, receive, send)
        if scope["path"] == "/" and (token := self._identity(headers, visitor)) is not None:
            send = _with_cookie(session_cookie(token, scope["scheme"] == "https"), send)
        return await self.app(scope, receive, send)

    async def _stop(self, scope: Scope, visitor: Caller | None, is_local: bool) -> Response | None:
        """What is answered instead of the page, if anything."""
        path, is_page = scope["path"], scope["path"] in _PAGES and scope["method"] in ("GET", "HEAD")
        if is_page and (key := parse_qs(scope["query_string"].decode("latin-1")).get("key")):
            return await self._exchange(scope, key[0])
        if path == "/operator" or path.startswith("/operator/"):
            if visitor is not None and visitor.role == "operator":
                return None
            why = "This page is for operators."
            return (
                sign_in_page(f"{why} Open the operator link, or sign in with an operator's key.", 403)
                if is_page
                else answer(Forbidden(why))
            )
        if is_local or visitor is not None:
            return None
        return (
            sign_in_page("Sign in with your key.", 401)
            if is_page
            else answer(Unauthorized("Sign in first.", "Open /."))
        )

    async def _exchange(self, scope: Scope, key: str) -> Response:
        try:
            token, _ = await self.identities.session_from_key(key)
        except HoneError:
            return sign_in_page("This key is not in force.", 401, wrong=True)
        response = RedirectResponse(scope["path"], 303, {"referrer-policy": "no-referrer", "cache-control": "no-store"})
        response.headers.append("set-cookie", session_cookie(token, scope["scheme"] == "https"))
        return response

    async def _visitor(self, headers: Headers) -> Caller | None:
        cookie = _cookie(headers)
        return await self.identities.of_session(cookie, headers) if cookie else None

    def _identity(self, headers: Headers, visitor: Caller | None) -> str | None:
        """A token for a browser that nobody knows yet, or a fresh one where half of its own's time has passed.

        None for any other, and for a session that was made from a key: who has one can sign in again as the same.
        """
        sessions = self.identities.sessions
        if visitor is None:
            return sessions.sign_browser()[0]
        session = sessions.check(_cookie(headers))
        if session is None or session.key_prefix is not None or session.expires - time.time() > SESSION_SECONDS / 2:
            return None
        return sessions.sign(session.caller, session.role)


def _cookie(headers: Headers) -> str:
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def _with_cookie(cookie: str, send: Send) -> Send:
    async def setting(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if not any(value.startswith(f"{COOKIE}=") for value in headers.getlist("set-cookie")):
                headers.append("set-cookie", cookie)
        await send(message)

    return setting
