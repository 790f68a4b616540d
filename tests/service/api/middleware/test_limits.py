"""Limits on requests, in isolation and with the real service."""

import re
import socket
import time

import pytest
from fastapi import Request

from service.api.middleware.limits import deadline_seconds
from service.api.problems import Problem
from tests.support.servers import serving

LIMITS = {
    "GANYMEDE_MAX_BODY_BYTES": "20000",
    "GANYMEDE_BODY_TIMEOUT_S": "2",
    "GANYMEDE_MAX_HEADER_BYTES": "4096",
    "GANYMEDE_WRITE_TIMEOUT_S": "2",
}


def request_with(value) -> Request:
    headers = [] if value is None else [(b"x-deadline-ms", value.encode("latin-1"))]
    return Request({"type": "http", "headers": headers})


def test_deadline_is_minimum_of_header_and_setting():
    assert deadline_seconds(request_with(None), 30) == 30
    assert deadline_seconds(request_with("1500"), 30) == 1.5
    assert deadline_seconds(request_with("00200"), 30) == 0.2
    assert deadline_seconds(request_with("60000"), 30) == 30
    assert deadline_seconds(request_with("9" * 400), 30) == 30


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", "soon", "+3", "³", "1e3", " 1"])
def test_rejects_invalid_deadline(value):
    with pytest.raises(Problem) as error:
        deadline_seconds(request_with(value), 30)
    assert error.value.status == 400


@pytest.fixture(scope="module")
def bounded(drawn_repository):
    with serving(drawn_repository, env=LIMITS) as server:
        yield server


def read_response(connection) -> bytes:
    """Read until the server closes the connection."""
    parts = []
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return b"".join(parts)
        parts.append(data)


PROBLEM_KINDS = {
    "/v1/generate": lambda body: body["type"].rpartition(":")[2],
    "/v1/images/generations": lambda body: body["error"]["code"].replace("_", "-"),
}


@pytest.mark.parametrize("path", PROBLEM_KINDS)
def test_large_body_gets_413_in_the_routes_format(bounded, path):
    with bounded.client() as client:
        response = client.post(path, json={"model": "cut", "x": "y" * 30_000})
    assert response.status_code == 413
    assert PROBLEM_KINDS[path](response.json()) == "body-too-large"


def test_counts_body_without_content_length(bounded):
    with bounded.client() as client:
        parts = (b"x" * 1000 for _ in range(40))
        headers = {"content-type": "application/json"}
        response = client.post("/v1/generate", content=parts, headers=headers)
    assert response.status_code == 413


def test_closes_connection_that_keeps_sending_after_413(bounded):
    with bounded.connect(timeout=30) as connection:
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )

        def send_on() -> None:
            for _ in range(10_000):
                connection.sendall(b"x" * 10_000)
                time.sleep(0.01)

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_on()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("[" * 500, "json-too-deep"),
        ('{"a":' * 100 + "1" + "}" * 100, "json-too-deep"),
    ],
)
def test_rejects_deep_json_before_parsing(bounded, body, kind):
    with bounded.client() as client:
        for content_type in ("application/json", "application/problem+json", "APPLICATION/JSON"):
            headers = {"content-type": content_type}
            response = client.post("/v1/generate", content=body, headers=headers)
            assert response.status_code == 400
            assert response.json()["type"].endswith(kind)


def test_json_depth_ignores_brackets_in_strings(bounded):
    with bounded.client() as client:
        response = client.post("/v1/generate", json={"model": "[" * 500})
        assert response.status_code == 404


def test_rejects_json_with_too_many_containers(drawn_repository):
    with serving(drawn_repository) as server, server.client() as client:
        body = "[" + "[]," * 300_000 + "[]]"
        headers = {"content-type": "application/json"}
        response = client.post("/v1/generate", content=body, headers=headers)
        assert response.status_code == 400
        assert response.json()["type"].endswith("json-too-many-parts")


def test_slow_body_gets_408(bounded):
    with bounded.connect(timeout=30) as connection:
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        response = read_response(connection)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"body-too-slow" in response


def test_slow_headers_end_the_connection(bounded):
    with bounded.connect(timeout=30) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-")
        assert read_response(connection).startswith(b"HTTP/1.1 408 ")
    with bounded.connect(timeout=30) as connection:
        # Sends nothing.
        assert read_response(connection) == b""


def test_large_headers_get_431(bounded):
    with bounded.connect(timeout=30) as connection:
        lines = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 100) for i in range(100))
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
        assert read_response(connection).startswith(b"HTTP/1.1 431 ")
    with bounded.connect(timeout=30) as connection:
        connection.sendall(b"GET /" + b"a" * 9000)
        assert read_response(connection).startswith(b"HTTP/1.1 431 ")


def test_keeps_idle_connection_between_requests(bounded):
    with bounded.client() as client:
        for _ in range(3):
            assert client.get("/v1/models").status_code == 200
            time.sleep(0.8)


WEBSOCKET = (
    b"GET /v1/models/cut HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# The first request of a connection of Java's HttpClient.
HTTP2 = (
    b"POST /v1/generate HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: x\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
    b"Content-Type: application/json\r\nContent-Length: 46\r\n\r\n"
    b'{"model": "cut", "seed": "as it was", "n": 1 }'
)
LAST = b"GET /v1/models/cut HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 10_000], ids="in pieces of {}".format)
def test_ignores_upgrade_requests(bounded, size):
    sent = WEBSOCKET + HTTP2 + HTTP2 + WEBSOCKET + LAST
    with bounded.connect(timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), size):
            connection.sendall(sent[start : start + size])
        response = read_response(connection)
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", response)
    assert statuses == [b"200", b"422", b"422", b"200", b"200"]
    # The body was parsed: the error is about its field.
    assert response.count(b'"detail": "seed: ') == 2
    assert "AttributeError" not in bounded.logged()


def test_connect_method_gets_400(bounded):
    with bounded.connect(timeout=30) as connection:
        connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        assert read_response(connection).startswith(b"HTTP/1.1 400 ")


def test_openapi_document_states_limits(bounded):
    with bounded.client() as client:
        document = client.get("/openapi.json").json()
        description = document["info"]["description"]
        assert "20,000 bytes" in description
        assert "No API key is required" in description
        assert "| reading a response | 1 MiB per 2 s |" in description
        assert "| images per job | 1,000,000 |" in description
        parameters = document["paths"]["/v1/generate"]["post"]["parameters"]
        assert "X-Deadline-Ms" in {parameter["name"] for parameter in parameters}


def test_deadline_header_limits_request(bounded):
    with bounded.client() as client:
        body = {"model": "painted", "n": 200, "format": "npy"}
        response = client.post("/v1/generate", json=body, headers={"x-deadline-ms": "1"})
        assert response.status_code == 504
        response = client.post("/v1/generate", json=body, headers={"x-deadline-ms": "never"})
        assert response.status_code == 400
