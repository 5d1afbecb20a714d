"""What the service counts and times, for Prometheus (`GET /metrics`), and the middleware that times every request."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.replicas import ReplicaState

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One set of counters for one service; a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each, which nobody reads
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "hone_requests", "Requests answered, by route and status.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "hone_request_seconds", "From request to last byte.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.first_token_seconds = Histogram(
            "hone_first_token_seconds",
            "From a streamed chat request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.chats_under_way = Gauge("hone_chats_under_way", "Chat requests being answered now.", registry=registry)
        self.tokens = Counter("hone_tokens", "Tokens, by adapter and kind.", ["adapter", "kind"], registry=registry)
        self.exchanges = Counter(
            "hone_exchanges",
            "Exchanges stored, by adapter and completeness.",
            ["adapter", "complete"],
            registry=registry,
        )
        self.best_of = Counter(
            "hone_best_of",
            "Chats answered with the best of several replies, by adapter.",
            ["adapter"],
            registry=registry,
        )
        self.revisions = Counter(
            "hone_revisions",
            "Critiques of replies under a principle, by adapter and how they ended.",
            ["adapter", "ended"],
            registry=registry,
        )
        self.feedback = Counter("hone_feedback", "Feedback stored, by kind.", ["kind"], registry=registry)
        self.retries = Counter("hone_retries", "Requests asked of another engine.", registry=registry)
        self.replica_healthy = Gauge(
            "hone_replica_healthy", "1 for an engine that gets requests.", ["replica"], registry=registry
        )
        self.replica_under_way = Gauge(
            "hone_replica_requests_under_way", "Requests under way, by engine.", ["replica"], registry=registry
        )
        self.replica_adapters = Gauge(
            "hone_replica_adapters_loaded", "Adapters loaded and proven, by engine.", ["replica"], registry=registry
        )
        self.live = Gauge("hone_live_adapter", "1 for the adapter that is live.", ["adapter"], registry=registry)

    def render(self, live: str, replicas: Sequence[ReplicaState]) -> bytes:
        """The Prometheus text, saying that `live` is live and how each engine is."""
        for replica in replicas:
            self.replica_healthy.labels(replica.url).set(replica.healthy)
            self.replica_under_way.labels(replica.url).set(replica.under_way)
            self.replica_adapters.labels(replica.url).set(len(replica.adapters))
        self.live.clear()
        self.live.labels(live).set(1)
        return generate_latest(self._registry)


class RequestTimer:
    """Pure ASGI middleware. A request's route is its path template, known once it was routed; unknown paths are one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            return await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.request_seconds.labels(route).observe(time.perf_counter() - began)
