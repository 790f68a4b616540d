"""`GET /metrics`: Prometheus metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from service.api.metrics import EngineMetrics
from service.api.routes import head_requests
from service.api.state import state_of

router = APIRouter(tags=["operations"])


@head_requests.get(router, "/metrics", summary="Prometheus metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Return the metrics of all processes of this server."""
    state = state_of(request)
    # Engine metrics have a registry of their own, because a process can hold several engines.
    registry = CollectorRegistry()
    registry.register(EngineMetrics(state.engine, state.settings, state.count_processes))
    text = generate_latest(registry) + generate_latest(state.metrics)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
