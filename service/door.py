"""The door of the pages: who may see which, and how a browser gets its identity.

Pure ASGI middleware before the mounted pages. On loopback every browser gets an identity of its own with its first
look at the chat page. Elsewhere a key is needed: the sign-in form exchanges it for a session. Everything under
`/operator` is for operators' sessions; the operator link (`/operator?key=…`) is exchanged for one at once, so that the
key leaves the address bar.
"""

from __future__ import annotations

import html
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import COOKIE, Caller, Identities
from service.error_handlers import answer
from service.errors import Forbidden, HoneError
from service.routes.sessions import session_cookie

_PAGES = ("/", "/operator", "/operator/")
_FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Hone</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px system-ui;max-width:28rem;margin:18vh auto;padding:0 1rem}}
input,button{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.3rem 0}}</style>
<h1>Hone</h1><p>{message}</p>
<form method="post" action="/login"><label for="key">Key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<button>Sign in</button></form></html>"""


class Door:
    def __init__(self, app: ASGIApp, identities: Identities) -> None:
        self.app, self.identities = app, identities

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._is_guarded(scope["path"]):
            return await self.app(scope, receive, send)
        try:
            response = await self._stop(scope)
        except HoneError as error:
            response = answer(error)
        if response is not None:
            return await response(scope, receive, send)
        if scope["path"] == "/" and self.identities.on_loopback and await self._visitor(scope) is None:
            send = self._with_identity(scope, send)
        return await self.app(scope, receive, send)

    def _is_guarded(self, path: str) -> bool:
        return path in _PAGES or path.startswith("/operator/")

    async def _stop(self, scope: Scope) -> Response | None:
        """What is answered instead of the page, if anything."""
        path, is_page = scope["path"], scope["path"] in _PAGES and scope["method"] in ("GET", "HEAD")
        if is_page and (key := parse_qs(scope["query_string"].decode("latin-1")).get("key")):
            return await self._exchange(scope, key[0])
        visitor = await self._visitor(scope)
        if path == "/":
            needs_key = not self.identities.on_loopback and visitor is None
            return _form("Sign in with your key.", 401) if needs_key else None
        if visitor is not None and visitor.role == "operator":
            return None
        if is_page:
            return _form("This page is for operators. Sign in with an operator's key, or use the operator link.", 403)
        return answer(Forbidden("This page is for operators."))

    async def _exchange(self, scope: Scope, key: str) -> Response:
        try:
            token, _ = await self.identities.session_from_key(key)
        except HoneError:
            return _form("This key is not in force.", 401)
        response = RedirectResponse(scope["path"], 303, {"referrer-policy": "no-referrer", "cache-control": "no-store"})
        response.headers.append("set-cookie", session_cookie(token, scope["scheme"] == "https"))
        return response

    async def _visitor(self, scope: Scope) -> Caller | None:
        cookie = cookie_parser(Headers(scope=scope).get("cookie", "")).get(COOKIE)
        return await self.identities.of_session(cookie) if cookie else None

    def _with_identity(self, scope: Scope, send: Send) -> Send:
        token, _ = self.identities.sessions.sign_browser()
        cookie = session_cookie(token, scope["scheme"] == "https")

        async def setting(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if not any(value.startswith(f"{COOKIE}=") for value in headers.getlist("set-cookie")):
                    headers.append("set-cookie", cookie)
            await send(message)

        return setting


def _form(message: str, status: int) -> HTMLResponse:
    return HTMLResponse(_FORM.format(message=html.escape(message)), status, {"cache-control": "no-store"})
