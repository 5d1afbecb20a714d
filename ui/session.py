"""A browser's identity where the pages run alone: one cookie, set when a page is opened, by pure ASGI middleware.

Mounted in the service, the pages leave this to the service's own door. Alone, they ask the service for what it would
have set itself: on loopback a fresh identity for each browser (`POST /v1/sessions`); where it wants keys, a page opened
with `?key=…` gets the session of the key's owner, and the key leaves the address bar at once. Nothing here reads what
is in the cookie.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.client import SESSION_COOKIE, Credentials, ServiceClient, ServiceError

CHAT, OPERATOR = "/", "/operator/"
PAGES = {"/": CHAT, "/operator": OPERATOR, "/operator/": OPERATOR}
FROM_A_PROXY = ("forwarded", "x-forwarded-for", "x-real-ip")
A_YEAR = 365 * 24 * 3600  # seconds; the service ends a session when it wants to


class BrowserSession:
    """Gives every browser that opens a page without a session, or with one that is no longer good, one of its own."""

    def __init__(self, app: ASGIApp, service: ServiceClient) -> None:
        self.app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "GET" else ""
        if path not in PAGES:
            await self.app(scope, receive, send)
        elif key := parse_qs(scope["query_string"].decode("latin-1")).get("key"):
            await (await self._exchange(key[0], scope))(scope, receive, send)
        else:
            cookie = await self._fresh(Headers(scope=scope), scope["scheme"])
            await self.app(scope, receive, _adding(cookie, send) if cookie else send)

    async def _exchange(self, key: str, scope: Scope) -> Response:
        try:
            token = await self._service.session_of_key(key)
        except ServiceError as error:
            said = "This key is not in force." if error.status == 401 else error.message
            return PlainTextResponse(said, error.status or 503)
        response = RedirectResponse(scope.get("root_path", "") + PAGES[scope["path"]], 303)
        response.headers["Set-Cookie"] = set_cookie(token, scope["scheme"])
        return response

    async def _fresh(self, headers: Headers, scheme: str) -> str | None:
        """The Set-Cookie header that this browser needs; None where it needs none, or may have none."""
        who = Credentials.of(headers)
        try:
            if who and await self._is_good(who):
                return None
            # The service decides by these whether the browser is on its own machine.
            passed_on = {name: headers[name] for name in FROM_A_PROXY if name in headers}
            return set_cookie(await self._service.new_session(passed_on), scheme)
        except ServiceError:
            return None  # the page opens all the same, and says what is wrong when it is used

    async def _is_good(self, who: Credentials) -> bool:
        try:
            caller = str((await self._service.who_am_i(who))["caller"])
        except ServiceError as error:
            if error.status == 401:
                return False
            raise
        return not caller.startswith("name:")  # on loopback, a session that is not known counts as none


def _adding(cookie: str, send: Send) -> Send:
    async def with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.append("Set-Cookie", cookie)
            headers["Cache-Control"] = "no-store"
        await send(message)

    return with_cookie


def set_cookie(token: str, scheme: str) -> str:
    """The header that keeps `token`: out of reach of scripts and of other sites' requests."""
    secure = "; Secure" if scheme == "https" else ""
    return f"{SESSION_COOKIE}={token}; Path=/; Max-Age={A_YEAR}; HttpOnly; SameSite=Lax{secure}"
