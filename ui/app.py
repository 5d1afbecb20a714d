"""The pages as an ASGI app: mounted in the service, or alone beside it (`hone ui --api URL`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse

from ui import chat, operator
from ui.client import ServiceClient
from ui.session import BrowserSession
from ui.theme import ICON, PIECES, STYLES, theme

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read by Gradio wherever it would call home

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
MAX_EVENTS = 512  # at once, per page: a streaming reply holds one for as long as it streams
QUEUE_PAUSE = 0.01  # seconds between two looks of Gradio's queue for work; its own 0.001 keeps a core from sleeping


def create_app(api_url: str, sessions: bool = True) -> FastAPI:
    """The pages for the service at `api_url`: chat at `/`, operator at `/operator`.

    `sessions` False leaves it to whoever mounts the app to give each browser its cookie, as the service does itself.
    """
    service = ServiceClient(api_url)
    app = FastAPI(title="Hone pages", docs_url=None, redoc_url=None, openapi_url=None)
    if sessions:
        app.add_middleware(BrowserSession, service=service)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # without one, Gradio answers any origin, credentials and all
    app.router.add_route("/operator", _to_operator_page, methods=["GET"], include_in_schema=False)
    app.router.add_route("/pieces.css", _style, methods=["GET"], include_in_schema=False)
    _in_a_loop(lambda: _mount_page(app, operator.build(service), "/operator"))
    _in_a_loop(lambda: _mount_page(app, chat.build(service), "/"))
    _close_with(app, service)
    return app


def _in_a_loop(act: Callable[[], None]) -> None:
    """Do `act` with an event loop running: with none, Gradio opens loops of its own and never closes them."""

    async def acting() -> None:
        act()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(acting())
    else:
        act()


async def _to_operator_page(request: Request) -> RedirectResponse:
    """A mounted app begins with a slash."""
    return RedirectResponse(request.url.replace(path=f"{request.url.path}/", query=""))


async def _style(request: Request) -> FileResponse:
    """For the pages that are not Gradio's: those before a visitor is signed in."""
    return FileResponse(PIECES, media_type="text/css", headers={"Cache-Control": "no-cache"})


def _mount_page(app: FastAPI, page: gr.Blocks, path: str) -> None:
    page.api_open = False
    # What follows would also come of page.queue(…), which builds the whole app once more: a third of a second a page.
    page._queue.max_thread_count = MAX_EVENTS
    page._queue.sleep_when_free = QUEUE_PAUSE
    options: dict[str, Any] = {"favicon_path": str(ICON)} if path == "/" else {}
    gr.mount_gradio_app(
        app,
        page,
        path=path,
        theme=theme(),
        css_paths=list(STYLES),
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=1,  # byte: nothing is ever uploaded, and Gradio's upload route can't be switched off
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        **options,
    )


def _close_with(app: FastAPI, service: ServiceClient) -> None:
    """Close the client's connections when the app ends."""
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            yield state
        await service.close()

    app.router.lifespan_context = lifespan


def serve(api_url: str, listener: socket.socket) -> None:
    """Serve the pages until interrupted. On loopback they answer to this machine's names only (DNS rebinding)."""
    app = create_app(api_url)
    if listener.getsockname()[0] in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn once it has stopped
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
