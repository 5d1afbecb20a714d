"""Browser sessions: a fresh identity on loopback, and a key exchanged for a cookie."""

from __future__ import annotations

import html
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from service.auth import COOKIE, SESSION_SECONDS
from service.errors import Forbidden, Unauthorized
from service.parts import Wired
from service.wire import SessionToken

router = APIRouter(tags=["sessions"])
_FORM = """<!doctype html><html lang="en" class="hone-door"><head><meta charset="utf-8"><title>Hone · sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><link rel="stylesheet" href="/pieces.css"></head><body><main>
<a class="hone-brand" href="/"><svg class="hone-mark" viewBox="0 0 24 24" aria-hidden="true"><path class="stone"
d="M3 20 12 3l9 17z"/><path class="edge" d="M12 3l9 17h-6.500z"/></svg><span>Hone</span></a>
<form method="post" action="/login"><h1>Sign in</h1><p{tone}>{message}</p><label for="key">Key</label>
<input id="key" name="key" type="password" autocomplete="current-password" spellcheck="false" required autofocus>
<button>Sign in</button></form>
<small>A key begins with “hone_”. Whoever runs this service makes one with “hone keys create”.</small>
</main></body></html>"""
"""Its style is the pages' own, which they serve to everybody; without them the form is plain, and works."""


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
    try:
        token, caller = await parts.identities.session_from_key(form.get("key", [""])[0].strip())
    except Unauthorized as error:
        return sign_in_page(error.message, 401, wrong=True)
    response = RedirectResponse("/operator" if caller.role == "operator" else "/", 303)
    response.headers.append("set-cookie", session_cookie(token, request.url.scheme == "https"))
    return response


def session_cookie(token: str, secure: bool) -> str:
    """The `Set-Cookie` value: unreadable for scripts, not sent by other sites' forms and scripts."""
    flags = "; Secure" if secure else ""
    return f"{COOKIE}={token}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Lax{flags}"


def sign_in_page(message: str, status: int, wrong: bool = False) -> HTMLResponse:
    """A form that takes a key, under a sentence that says why it is shown; `wrong`: because a key was refused."""
    tone = ' class="wrong" role="alert"' if wrong else ""
    form = _FORM.format(message=html.escape(message), tone=tone)
    return HTMLResponse(form, status, {"cache-control": "no-store"})
