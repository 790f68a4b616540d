"""Lets requests bypass BentoML's wrapper of mounted applications.

Fault: for each request to a mounted application, BentoML creates a task and a timer that outlives
the request by a minute, and looks up its own routes. This takes a third of the CPU time of a small
image, and is not needed, because the application has its own deadlines, metrics and traces.

Seen in: bentoml 1.4.39.
Shown by: benchmarks/smoke.py (the share of CPU time that is inference falls without it), and
tests/service/host/test_bentoml_mount.py for the dispatch.
Can go when: benchmarks/smoke.py gives the same without `MountBypass`.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

# BentoML responds to these itself.
PROBES = frozenset(["/livez", "/readyz", "/healthz"])


class MountBypass:
    """ASGI application that sends probes to the host and other requests to the application."""

    def __init__(self, app: ASGIApp, host: ASGIApp) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch by path. Anything but HTTP (lifespan, WebSocket) goes to the host."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            await self._app(scope, receive, send)
        else:
            await self._host(scope, receive, send)
