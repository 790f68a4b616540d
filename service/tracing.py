"""OpenTelemetry traces: on when its standard environment variables ask for them, else not there.

A request is one span of kind server, with a child each for the time in the queue, the inference and
the encoding. The children are made when the request ends, from the times that its jobs noted, so
that nothing of this reaches the threads that run them.
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
    """Return the entry points of the exporters that OpenTelemetry's variables ask for."""
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
    """Makes the spans, and sends them on."""

    def __init__(self, provider: TracerProvider) -> None:
        # Imported here, since who traces nothing need not wait for it.
        from opentelemetry import context, propagate, trace  # noqa: PLC0415

        self._context = context
        self._extract = propagate.extract
        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("ganymede", __version__)

    def start_request_span(self, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """Begin the span of a request, a child of the one that its `traceparent` names."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        # In a context of its own: what the host may have begun around it is not our parent.
        parent = self._extract(carrier, self._context.Context())
        return self._tracer.start_span("request", parent, kind=self._trace.SpanKind.SERVER)

    def log_fields(self, span: Span) -> dict[str, str]:
        """Return what log lines say of `span`."""
        ids = span.get_span_context()
        return {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"}

    def add_job_spans(self, span: Span, job: InferenceJob, role: str, clock: Clock) -> None:
        """Add the children of `span` for what has become of `job` by now.

        `clock` is the one on which the job's times are.
        """
        if not span.is_recording():
            return
        times, now = job.times, clock()
        epoch = time.time_ns() - int(now * 1e9)
        around = self._trace.set_span_in_context(span, self._context.Context())
        attributes: dict[str, Any] = {"ganymede.model": job.lane.label, "ganymede.role": role}

        def add_span(name: str, begun: float | None, ended: float | None, **more: int) -> None:
            if begun is None:
                return
            child = self._tracer.start_span(
                name, around, start_time=epoch + int(begun * 1e9), attributes=attributes | more
            )
            child.end(epoch + int((now if ended is None else ended) * 1e9))

        add_span("queue", times.submitted, times.started or times.ended)
        add_span("inference", times.started, times.ended, rows=job.rows)
        add_span("encode", times.encoding, times.encoded)

    def end_request_span(
        self,
        span: Span,
        scope: Mapping[str, Any],
        route: str,
        status: int,
        more: Mapping[str, str | None],
    ) -> None:
        """End the span of a request, named by its route's template, with `more` attributes."""
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        span.update_name(f"{method} {route}")
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
        }
        if status >= 500:
            attributes["error.type"] = str(status)
            span.set_status(self._trace.StatusCode.ERROR)
        span.set_attributes(
            attributes | {name: value for name, value in more.items() if value is not None}
        )
        span.end()

    def shutdown(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def start(environment: Mapping[str, str] = os.environ) -> Tracer | None:
    """Begin to trace if the environment asks for it; what `current` returns from now on.

    An exporter that is not installed is an error in the log, and no reason not to serve.
    """
    global _current  # noqa: PLW0603 - one process, one tracer
    names = exporter_names(environment)
    if not names:
        return None
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    ours = Resource.create({"service.name": "ganymede", "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    sent = []
    for name in names:
        found = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not found:
            log.error(
                "no traces go to %r: pip install 'ganymede[otel]' brings OTLP over HTTP", name
            )
            continue
        try:
            provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
        except Exception as error:  # noqa: BLE001 - whatever an exporter makes of its settings
            log.error("no traces go to %r: %s", name, error)
            continue
        sent.append(name)
    if not sent:
        return None
    log.info("traces go to %s", ", ".join(sent))
    _current = Tracer(provider)
    return _current


def current() -> Tracer | None:
    """Return the tracer of this process, or None when nothing is traced."""
    return _current


_current: Tracer | None = None
