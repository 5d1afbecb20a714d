"""The pages inside the service, built beside it: importing Gradio takes seconds that no API caller should wait for.

Mounted last, so it gets every path that no route took. Whoever asks for a page before they are built waits for them.
What the pages don't know either is answered as any other part of the API answers it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.error_handlers import answer
from service.errors import PagesUnavailable

NO_PAGES = ("/v1/", "/health", "/metrics", "/docs", "/chat/completions", "/models")
"""No pages begin so. The last two are what a client asks for whose base URL lacks `/v1`."""
BETWEEN_THEMSELVES = "/gradio_api/"
"""In the paths of what the pages ask of their own server: they know its errors as it says them."""
log = structlog.get_logger(__name__)


class Pages:
    """An ASGI app that hands on to the pages once they are there. `state`: starting, ok, or what went wrong."""

    def __init__(self, api_url: str) -> None:
        self.state = "starting"
        self._api_url = api_url
        self._app: ASGIApp | None = None
        self._settled = asyncio.Event()

    @property
    def has_settled(self) -> bool:
        """Whether they are there, or have failed."""
        return self._settled.is_set()

    @property
    def problem(self) -> str | None:
        """Why there are none, once they have settled."""
        return None if self.state == "ok" else self.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        app = await self._for(scope)
        if BETWEEN_THEMSELVES in scope["path"]:
            await app(scope, receive, send)
        else:
            await _unless_unknown(app, scope, receive, send)

    async def _for(self, scope: Scope) -> ASGIApp:
        if scope["path"].startswith(NO_PAGES):
            raise HTTPException(404)  # `service.error_handlers` says what is wrong with it
        await self._settled.wait()
        return self._app or answer(PagesUnavailable(self.state))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Builds the pages beside the block, and closes them after it."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        """Build, then hold the pages' lifespan open until cancelled: their clean-up must run in this task."""
        try:
            pages = await asyncio.to_thread(_build, self._api_url)
            async with pages.router.lifespan_context(pages):
                self._app, self.state = pages, "ok"
                self._settled.set()
                await asyncio.Event().wait()
        except Exception as error:
            # Whatever is wrong with the pages, the API goes on; whoever asks for a page is told.
            log.exception("the pages don't start")
            self.state = f"The pages don't start ({type(error).__name__}: {error}); the log says more."
            self._settled.set()


async def _unless_unknown(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """What `app` answers; where that is a 404 or 405, and no page for people, raises it instead (HTTPException)."""
    unknown: HTTPException | None = None

    async def look(message: Message) -> None:
        nonlocal unknown
        if message["type"] == "http.response.start" and message["status"] in (404, 405):
            headers = Headers(raw=message["headers"])
            if not headers.get("content-type", "").startswith("text/html"):
                unknown = HTTPException(message["status"], headers={"allow": headers.get("allow", "")})
        if unknown is None:
            await send(message)

    inner = dict(scope)  # the app writes itself into it
    await app(inner, receive, look)
    if unknown is not None:
        raise unknown
    scope["route"] = inner.get("route")  # by which the metrics name it


def _build(api_url: str) -> FastAPI:
    from ui.app import create_app

    return create_app(api_url, sessions=False)  # the door gives every browser its own
