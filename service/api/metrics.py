"""Prometheus metrics, labelled by route template and model: never by what a client typed."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.runtime.scheduler import Lane

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

REQUESTS = Counter("ganymede_requests_total", "Requests answered.", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "ganymede_request_seconds", "From the first byte to the last.", ["route"], buckets=_SECONDS
)
QUEUE_PIXELS = Gauge("ganymede_queue_pixels", "Pixels accepted and not yet made.")
BATCH_ROWS = Histogram(
    "ganymede_batch_rows",
    "Rows of one run: pictures, or the styles that they are mixed of.",
    ["model"],
    buckets=_ROWS,
)
INFERENCE_SECONDS = Histogram(
    "ganymede_inference_seconds", "Time of one run.", ["model"], buckets=_SECONDS
)


class SchedulerMetrics:
    """What the scheduler has to say, in Prometheus' words."""

    def ran(self, lane: Lane, rows: int, seconds: float) -> None:
        """Count a batch."""
        BATCH_ROWS.labels(lane.label).observe(rows)
        INFERENCE_SECONDS.labels(lane.label).observe(seconds)

    def queued(self, pixels: int) -> None:
        """Note the depth of the queue."""
        QUEUE_PIXELS.set(pixels)


class RequestMetrics:
    """ASGI middleware that counts requests by the template of the route that answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            # Of what no route of ours has answered, not even the method is a label: it may be any.
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            method = scope["method"] if route != "unmatched" else "any"
            REQUESTS.labels(route, method, str(status)).inc()
            REQUEST_SECONDS.labels(route).observe(time.perf_counter() - began)


def router() -> APIRouter:
    """Return the route that Prometheus scrapes."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return routes
