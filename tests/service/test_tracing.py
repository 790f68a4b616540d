"""Traces that a collector receives from the real service by OTLP over HTTP."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.tracing import exporter_names
from tests.support.servers import serving

CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


@dataclass
class Collector:
    """The spans received, and the attributes of their resources."""

    url: str
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    def trace(self, trace_id: str, spans: int) -> list[Span]:
        """Wait for `spans` spans of a trace and return them; fails if there are more."""
        deadline = time.monotonic() + 30
        while True:
            matching = [span for span in self.spans if span.trace_id.hex() == trace_id]
            if len(matching) >= spans:
                assert len(matching) == spans, [span.name for span in matching]
                return matching
            assert time.monotonic() < deadline, [span.name for span in matching]
            time.sleep(0.05)


@contextlib.contextmanager
def collecting():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            export = ExportTraceServiceRequest()
            export.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in export.resource_spans:
                collector.resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    collector.spans.extend(scope.spans)
            response = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(holder) -> dict[str, str | int]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes
    }


@pytest.fixture(scope="module")
def collector():
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(drawn_repository, collector):
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with serving(drawn_repository, env=environment) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def traceparent(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{CALLER[1]}-{flags}"}


def test_request_span_has_children_for_its_stages(client, collector):
    body = {"model": "cut", "n": 20, "seed": 1}
    headers = traceparent(CALLER[0]) | {"x-request-id": "traced"}
    assert client.post("/v1/generate", json=body, headers=headers).is_success
    spans = {span.name: span for span in collector.trace(CALLER[0], 4)}
    assert set(spans) == {"POST /v1/generate", "queue", "inference", "encode"}
    request = spans.pop("POST /v1/generate")
    assert request.kind == Span.SPAN_KIND_SERVER
    assert request.parent_span_id.hex() == CALLER[1]
    request_attributes = attributes(request)
    assert request_attributes["http.route"] == "/v1/generate"
    assert request_attributes["http.request.method"] == "POST"
    assert request_attributes["http.response.status_code"] == 200
    assert request_attributes["ganymede.model"] == "cut"
    assert request_attributes["ganymede.request_id"] == "traced"
    for child in spans.values():
        assert child.parent_span_id == request.span_id
        assert attributes(child)["ganymede.model"] == "cut"
        assert child.start_time_unix_nano <= child.end_time_unix_nano
        # The two clocks are not read at the same moment.
        slack = 50_000_000
        assert request.start_time_unix_nano - slack <= child.start_time_unix_nano
        assert child.end_time_unix_nano <= request.end_time_unix_nano + slack
    order = [spans[name] for name in ("queue", "inference", "encode")]
    for earlier, later in itertools.pairwise(order):
        assert earlier.end_time_unix_nano <= later.start_time_unix_nano + 1_000_000
    assert attributes(spans["inference"])["rows"] == 20


def test_request_of_two_jobs_has_spans_of_both(client, collector):
    trace = "1" * 32
    mix = {"model": "painted", "rows": [1], "columns": [2], "format": "png"}
    assert client.post("/v1/mix-styles", json=mix, headers=traceparent(trace)).is_success
    spans = collector.trace(trace, 7)
    roles = sorted(attributes(span)["ganymede.role"] for span in spans if span.name == "inference")
    assert roles == ["mapping", "synthesis"]


def test_log_lines_have_the_ids_of_a_new_trace(server, client, collector):
    client.get("/v1/models", headers={"x-request-id": "begins-here"})
    client.get("/v1/models")
    lines = [json.loads(line) for line in server.logged().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "begins-here"]
    (span,) = collector.trace(line["trace_id"], 1)
    assert span.name == "GET /v1/models"
    assert span.span_id.hex() == line["span_id"]
    assert span.parent_span_id == b""


def test_does_not_export_unsampled_traces(client, collector):
    unsampled, after = "2" * 32, "3" * 32
    body = {"model": "cut", "seed": 1}
    assert client.post("/v1/generate", json=body, headers=traceparent(unsampled, "00")).is_success
    assert client.post("/v1/generate", json=body, headers=traceparent(after)).is_success
    collector.trace(after, 4)
    assert not [span for span in collector.spans if span.trace_id.hex() == unsampled]


def test_ignores_invalid_traceparent(client, collector):
    for header in ("nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\u00e9" * 55):
        headers = {"traceparent": header.encode("latin-1")}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_client_errors_are_not_span_errors(client, collector):
    refused = "4" * 32
    response = client.post(
        "/v1/generate", json={"model": "cut", "n": 0}, headers=traceparent(refused)
    )
    assert response.status_code == 422
    (span,) = collector.trace(refused, 1)
    assert attributes(span)["http.response.status_code"] == 422
    assert span.status.code == Status.STATUS_CODE_UNSET


def test_unknown_method_does_not_name_the_span(client, collector):
    trace = "5" * 32
    client.request("PROPFIND", "/nowhere", headers=traceparent(trace))
    (span,) = collector.trace(trace, 1)
    assert span.name == "_OTHER unmatched"


def test_resource_attributes(client, collector):
    client.get("/v1/models", headers=traceparent("6" * 32))
    collector.trace("6" * 32, 1)
    for resource in collector.resources:
        assert resource["service.name"] == "ganymede"
        assert resource["service.version"]
        assert resource["deployment.environment"] == "test"


def test_missed_deadline_has_spans_of_the_stages_reached(drawn_repository):
    with collecting() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
            "OTEL_SERVICE_NAME": "images",
            "GANYMEDE_DEADLINE_S": "0.0000001",
        }
        with serving(drawn_repository, env=environment) as server, server.client() as client:
            response = client.post(
                "/v1/generate", json={"model": "cut", "n": 64}, headers=traceparent("7" * 32)
            )
            assert response.status_code == 504
        # Without a schedule in the environment, the end of the service exports them.
        spans = {span.name: span for span in collector.trace("7" * 32, 2)}
        assert set(spans) == {"POST /v1/generate", "queue"}
        assert spans["POST /v1/generate"].status.code == Status.STATUS_CODE_ERROR
        assert attributes(spans["POST /v1/generate"])["ganymede.rejection"] == "deadline"
        assert {resource["service.name"] for resource in collector.resources} == {"images"}


def test_missing_exporter_is_logged_and_service_runs(drawn_repository):
    environment = {"OTEL_TRACES_EXPORTER": "carrier-pigeon"}
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        assert client.post("/v1/generate", json={"model": "cut", "seed": 1}).is_success
        (line,) = [line for line in server.logged().splitlines() if "carrier-pigeon" in line]
        assert "pip install 'ganymede[otel]'" in line


def test_imports_nothing_without_tracing():
    code = """
import sys
import service.app
import service.worker
from service import tracing
before = set(sys.modules)
assert tracing.start({}) is None and tracing.current() is None
assert tracing.start({"OTEL_TRACES_EXPORTER": "none"}) is None
assert set(sys.modules) == before
assert not [name for name in sys.modules if name.startswith("opentelemetry.exporter")]
"""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "console"}, ["console"]),
        ({"OTEL_TRACES_EXPORTER": " otlp , console"}, ["otlp_proto_http", "console"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["otlp_proto_grpc"],
        ),
    ],
)
def test_exporters_from_standard_variables(environment, exporters):
    assert exporter_names(environment) == exporters
