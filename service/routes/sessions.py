"""Browser sessions: a fresh identity on loopback, and a key exchanged for a cookie."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from service.auth import COOKIE, SESSION_SECONDS
from service.errors import Forbidden
from service.parts import Wired
from service.wire import SessionToken

router = APIRouter(tags=["sessions"])


@router.post("/v1/sessions", status_code=201)
async def new_session(request: Request, parts: Wired) -> SessionToken:
    """An identity for a browser that nobody knows yet. On loopback only; elsewhere a key says who one is."""
    await parts.identities.identify({name: value for name, value in request.headers.items() if name != "cookie"})
    if not parts.identities.is_local(request.headers):
        raise Forbidden("Beyond this machine a key says who you are.", "Ask the operator for one.")
    token, caller = parts.identities.sessions.sign_browser()
    return SessionToken(token=token, caller=caller)


@router.post("/login", include_in_schema=False)
async def log_in(request: Request, parts: Wired) -> Response:
    """The sign-in form of the pages: a key becomes a session cookie."""
    form = parse_qs((await request.body()).decode(errors="replace"))
    token, caller = await parts.identities.session_from_key(form.get("key", [""])[0].strip())
    response = RedirectResponse("/operator" if caller.role == "operator" else "/", 303)
    response.headers.append("set-cookie", session_cookie(token, request.url.scheme == "https"))
    return response


def session_cookie(token: str, secure: bool) -> str:
    """The `Set-Cookie` value: unreadable for scripts, not sent by other sites' forms and scripts."""
    flags = "; Secure" if secure else ""
    return f"{COOKIE}={token}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Lax{flags}"
