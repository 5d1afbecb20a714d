"""The one place that wires the service together.

`create_app` builds everything that needs no running loop, and clears away what dead publishers left; the lifespan
starts the rollout and the pages, and closes all in order. Middleware from the outside in: timer, CORS where other
sites are allowed, origin check, body limit, door.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial

import structlog
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service import error_handlers
from service.adapters.registry import Registry
from service.adapters.replica import Replica
from service.adapters.rollout import Rollout
from service.auth import Identities, Sessions, load_secret, refuse_strangers, trusts_loopback
from service.body_limit import BodyLimit
from service.chat.asking import Asking
from service.chat.completion import Chat
from service.chat.judges import Judges
from service.chat.principles import Principles
from service.door import Door
from service.engine import Engine
from service.engine_checks import other_model
from service.engine_list import EngineList
from service.engine_log import EngineLog
from service.metrics import Metrics, RequestTimer
from service.origin_check import OriginCheck
from service.pages import Pages
from service.parts import Parts
from service.recent_stats import RecentStats
from service.replicas import EngineReplica, Replicas
from service.routes import adapters, chat, constitution, exchanges, feedback, models, runs, sessions, status
from service.settings import Settings
from service.store.clock import now
from service.store.queries import engines
from service.store.session import Store
from service.transactions import Transactions

ROUTERS = (chat, models, feedback, exchanges, constitution, adapters, runs, sessions, status)
log = structlog.get_logger(__name__)


def create_app(settings: Settings, store: Store, engine_urls: Sequence[str]) -> FastAPI:
    """The service for these engines. It closes neither store nor anything else that was handed in.

    Raises SettingsError when it would listen beyond loopback without a single key, StoreError when the home can't be
    written.
    """
    refuse_strangers(settings.server.host, store)
    parts = _wire(settings, store, engine_urls)
    for line in parts.registry.recover():
        log.warning(line)
    app = FastAPIOffline(
        title="Hone", redoc_url=None, static_url="/docs-assets", lifespan=_lifespan,
        middleware=_middleware(settings, parts),
    )  # fmt: skip
    app.state.parts = parts
    error_handlers.install(app)
    _add_routes(app)
    if parts.pages is not None:
        app.mount("/", parts.pages)
    return app


def api_description() -> FastAPI:
    """The routes alone, wired to nothing: what the documentation is written from."""
    app = FastAPI(title="Hone")
    _add_routes(app)
    return app


def _add_routes(app: FastAPI) -> None:
    for module in ROUTERS:
        app.include_router(module.router)


def _wire(settings: Settings, store: Store, engine_urls: Sequence[str]) -> Parts:
    transactions, metrics = Transactions(store), Metrics()
    registry = Registry.of(settings, store, settings.model_path)
    judges = Judges(registry)

    def replica(url: str) -> EngineReplica:
        engine = Engine(url, settings.engine.timeout_seconds, settings.engine.silence_seconds)
        slots, how, told = settings.engine.max_loras, settings.rollout, EngineLog(settings, engine).told
        other = partial(other_model, settings)
        return Replica(registry, engine, slots, how.probe_tolerance, told, judges.of, how.allow_untold, other)

    with store.read() as tx:
        wanted = engines.wanted(tx, engine_urls)
    seconds = settings.rollout.reconcile_seconds
    rollout = Rollout(store, [replica(url) for url in wanted], seconds, settings.rollout.keep_loaded)
    replicas = Replicas(rollout, settings.engine.max_requests, metrics.retries.inc)
    asking, principles = Asking(replicas, rollout), Principles(settings.constitution, transactions)
    return Parts(
        settings=settings,
        transactions=transactions,
        replicas=replicas,
        registry=registry,
        rollout=rollout,
        engine_list=EngineList(transactions, engine_urls, rollout, replica, seconds),
        identities=Identities(transactions, Sessions(load_secret(settings.home)), trusts_loopback(settings.server)),
        chat=Chat(settings.chat, asking, rollout, registry.base, judges, principles, transactions, metrics),
        asking=asking,
        principles=principles,
        recent_stats=RecentStats(transactions),
        metrics=metrics,
        pages=Pages(settings.server.local_url) if settings.server.pages else None,
        started_at=now(),
    )


def _middleware(settings: Settings, parts: Parts) -> list[Middleware]:
    origins = settings.server.allowed_origins
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-hone-conversation"],
    )
    return [
        Middleware(RequestTimer, metrics=parts.metrics),
        *([cors] if origins else []),  # without, the origin check refuses all that it would answer
        Middleware(OriginCheck, trusts_loopback=parts.identities.trusts_loopback, allowed_origins=origins),
        Middleware(BodyLimit, max_bytes=settings.server.max_body_bytes),
        Middleware(Door, identities=parts.identities),
    ]


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    loops = [asyncio.create_task(one.run()) for one in (parts.engine_list, parts.rollout)]
    hashing = asyncio.create_task(asyncio.to_thread(parts.registry.base.sha256))  # for the exchanges: see `Chat.begin`
    try:
        async with parts.pages.running() if parts.pages is not None else contextlib.nullcontext():
            yield
    finally:
        for loop in loops:  # first that of the engines' list, which hands engines to the rollout
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
        await hashing
        await parts.replicas.close()
        parts.transactions.close()
