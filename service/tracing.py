"""OpenTelemetry traces, enabled by OpenTelemetry's environment variables.

A request is one server span with a child for each of `queue`, `inference` and `encode`. They
are created when the job ends, from its recorded times, so that the threads that run the job need no
tracing code.

Reasons not to use opentelemetry-instrumentation-asgi for the request's span: it names spans by the
raw path, which clients choose, because the route is not known when the span starts; it emits
outdated attribute names unless another environment variable is set; and it must wrap the access
log, which needs the span's ids. Name and attributes would still have to be set here, in hooks, so
the library would save only about twenty lines.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from service import __version__
from service.runtime.scheduling.batches import InferenceJob
from service.runtime.scheduling.scheduler import Clock

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger("ganymede.tracing")

_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])


def exporter_names(environment: Mapping[str, str]) -> list[str]:
    """Return the entry point names of the exporters that OpenTelemetry's variables select."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    names = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if not names:
        endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        names = "otlp" if any(environment.get(name) for name in endpoints) else "none"
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    otlp = "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"
    listed = [name.strip() for name in names.split(",")]
    return [otlp if name == "otlp" else name for name in listed if name not in ("", "none")]


class Tracer:
    """Creates spans and exports them."""

    def __init__(self, provider: TracerProvider) -> None:
        # Imported here, so that a service without tracing starts faster.
        from opentelemetry import context, propagate, trace  # noqa: PLC0415

        self._context = context
        self._extract = propagate.extract
        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("ganymede", __version__)

    def start_request_span(self, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """Start the span of a request, a child of the span in its `traceparent` header."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        # With an empty context, a span that the host may have started does not become the parent.
        parent = self._extract(carrier, self._context.Context())
        return self._tracer.start_span("request", parent, kind=self._trace.SpanKind.SERVER)

    def log_fields(self, span: Span) -> dict[str, str]:
        """Return the fields that identify `span` in log lines."""
        ids = span.get_span_context()
        return {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"}

    def add_job_spans(self, span: Span, job: InferenceJob, role: str, clock: Clock) -> None:
        """Add the children of `span` for the stages that `job` has reached.

        `clock` is the clock that recorded the job's times.
        """
        if not span.is_recording():
            return
        times, now = job.times, clock()
        epoch_ns = time.time_ns() - int(now * 1e9)
        parent = self._trace.set_span_in_context(span, self._context.Context())
        attributes: dict[str, Any] = {"ganymede.model": job.group.label, "ganymede.role": role}

        def add_span(name: str, started: float | None, ended: float | None, **more: int) -> None:
            if started is None:
                return
            child = self._tracer.start_span(
                name,
                parent,
                start_time=epoch_ns + int(started * 1e9),
                attributes=attributes | more,
            )
            child.end(epoch_ns + int((now if ended is None else ended) * 1e9))

        add_span("queue", times.submitted, times.started or times.ended)
        add_span("inference", times.started, times.ended, rows=job.rows)
        add_span("encode", times.encoding, times.encoded)

    def end_request_span(
        self,
        span: Span,
        scope: Mapping[str, Any],
        route: str,
        status: int,
        attributes: Mapping[str, str | None],
    ) -> None:
        """End the span of a request, and name it by its route template.

        Attributes that are None are left out.
        """
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        span.update_name(f"{method} {route}")
        http_attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
        }
        if status >= 500:
            http_attributes["error.type"] = str(status)
            span.set_status(self._trace.StatusCode.ERROR)
        span.set_attributes(
            http_attributes
            | {name: value for name, value in attributes.items() if value is not None}
        )
        span.end()

    def shutdown(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


def start(environment: Mapping[str, str] = os.environ) -> Tracer | None:
    """Start tracing if `environment` enables it, and return the tracer; so does `current` then.

    Returns None if no exporter is enabled or works. An exporter that is not installed or cannot be
    created is logged as an error.
    """
    global _current  # noqa: PLW0603 - one process, one tracer
    names = exporter_names(environment)
    if not names:
        return None
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.name": "ganymede", "service.version": __version__})
    provider = TracerProvider(resource=resource.merge(OTELResourceDetector().detect()))
    exporters = []
    for name in names:
        found = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not found:
            log.error(
                "traces are not exported to %r: it is not installed; pip install 'ganymede[otel]' "
                "adds OTLP over HTTP",
                name,
            )
            continue
        try:
            provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything for its settings
            log.error("traces are not exported to %r: %s", name, error)
            continue
        exporters.append(name)
    if not exporters:
        return None
    log.info("traces are exported to %s", ", ".join(exporters))
    _current = Tracer(provider)
    return _current


def current() -> Tracer | None:
    """Return the tracer of this process; None if tracing is off."""
    return _current


_current: Tracer | None = None
