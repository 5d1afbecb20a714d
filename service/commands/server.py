"""Runs the service's app in uvicorn, on a socket that is bound already."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from service.app import create_app
from service.errors import HoneError
from service.pages import Pages
from service.settings import Settings
from service.store.session import Store

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while others want it. Python's 5 ms would be most of what a chat costs
here: it waits for the store's threads twice, and they for the event loop."""


WhenReady = Callable[[str | None], None]
"""Gets why there are no pages where they should be."""


def _interrupt_nobody() -> None:
    """Wait, when woken, for the turn of whoever computes instead of interrupting it (SCHED_BATCH of sched(7), Linux).

    An engine on the same processors makes a token for every stream in one step. Interrupted for each of them, eight
    streams through the service came to 0.69 times the tokens per second that they have straight from the engine;
    waiting, to 0.80 times.
    """
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, pages: Pages | None, when_ready: WhenReady) -> None:
        super().__init__(config)
        self._pages, self._when_ready = pages, when_ready
        self._is_ready = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            gc.freeze()  # a collection that looks through all of it would hold up every stream for a tenth of a second

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if not self._is_ready and (self._pages is None or self._pages.has_settled):
            self._is_ready = True
            self._when_ready(self._pages.problem if self._pages is not None else None)
        return await super().on_tick(counter)


def run(settings: Settings, store: Store, listener: socket.socket, when_ready: WhenReady, grace_seconds: int) -> None:
    """Serve until SIGTERM or SIGINT; replies under way then have `grace_seconds` to end.

    `when_ready`: called once the API answers and the pages have settled.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    _interrupt_nobody()
    app = create_app(settings, store, settings.engine.urls)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=grace_seconds
    )
    server = _Server(config, app.state.parts.pages, when_ready)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again when it has stopped: then there is still the store to close.
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    if not server.started:
        raise HoneError("The service could not start.", f"See {settings.home / 'logs'}.")
