"""Bounds on what a client may send: alone, and at the real service."""

import json
import re
import socket
import time

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from service.api.middleware.limits import deadline_seconds, is_nested_deeper
from service.api.problems import Problem
from tests.support.servers import serving

LIMITS = {
    "GANYMEDE_MAX_BODY_BYTES": "20000",
    "GANYMEDE_BODY_TIMEOUT_S": "2",
    "GANYMEDE_MAX_HEADER_BYTES": "4096",
    "GANYMEDE_WRITE_TIMEOUT_S": "2",
}

documents = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\\n é日', max_size=8) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('[{"\\', max_size=4), inner)
    ),
    max_leaves=20,
)


def depth_of(document) -> int:
    match document:
        case list():
            return 1 + max(map(depth_of, document), default=0)
        case dict():
            return 1 + max(map(depth_of, document.values()), default=0)
        case _:
            return 0


@given(documents, st.booleans())
def test_the_depth_of_json_is_seen_without_parsing_it(document, ascii_only):
    text = json.dumps(document, ensure_ascii=ascii_only).encode()
    depth = depth_of(document)
    assert not is_nested_deeper(text, depth)
    assert depth == 0 or is_nested_deeper(text, depth - 1)


@given(st.binary(max_size=200))
def test_of_what_is_no_json_it_says_anything_and_ends(text):
    assert is_nested_deeper(text, 3) in (True, False)


def request_with(value) -> Request:
    headers = [] if value is None else [(b"x-deadline-ms", value.encode("latin-1"))]
    return Request({"type": "http", "headers": headers})


def test_a_deadline_is_the_shorter_of_two():
    assert deadline_seconds(request_with(None), 30) == 30
    assert deadline_seconds(request_with("1500"), 30) == 1.5
    assert deadline_seconds(request_with("00200"), 30) == 0.2
    assert deadline_seconds(request_with("60000"), 30) == 30
    assert deadline_seconds(request_with("9" * 400), 30) == 30


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", "soon", "+3", "³", "1e3", " 1"])
def test_a_deadline_that_is_none_is_refused(value):
    with pytest.raises(Problem) as refused:
        deadline_seconds(request_with(value), 30)
    assert refused.value.status == 400


@pytest.fixture(scope="module")
def bounded(drawn_repository):
    with serving(drawn_repository, env=LIMITS) as server:
        yield server


def connected(server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def answer_of(connection) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return b"".join(parts)
        parts.append(data)


SHAPES = {
    "/v1/generate": lambda said: said["type"].rpartition(":")[2],
    "/v1/images/generations": lambda said: said["error"]["code"].replace("_", "-"),
}


@pytest.mark.parametrize("path", SHAPES)
def test_a_body_that_is_too_large_is_413_in_the_words_of_its_route(bounded, path):
    with bounded.client() as client:
        answer = client.post(path, json={"model": "cut", "x": "y" * 30_000})
    assert answer.status_code == 413
    assert SHAPES[path](answer.json()) == "body-too-large"


def test_one_that_says_no_length_is_counted_as_it_comes(bounded):
    with bounded.client() as client:
        parts = (b"x" * 1000 for _ in range(40))
        headers = {"content-type": "application/json"}
        answer = client.post("/v1/generate", content=parts, headers=headers)
    assert answer.status_code == 413


def test_who_goes_on_sending_after_a_413_is_let_go(bounded):
    with connected(bounded) as connection:
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        began, sent = time.monotonic(), 0
        try:
            while time.monotonic() - began < 25:
                connection.sendall(b"x" * 10_000)
                sent += 10_000
                time.sleep(0.01)
        except OSError:
            pass
        assert time.monotonic() - began < 20
        assert sent < 10**9


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("[" * 500, "json-too-deep"),
        ('{"a":' * 100 + "1" + "}" * 100, "json-too-deep"),
    ],
)
def test_json_that_is_too_deep_is_refused_before_it_is_read(bounded, body, kind):
    with bounded.client() as client:
        for content_type in ("application/json", "application/problem+json", "APPLICATION/JSON"):
            headers = {"content-type": content_type}
            answer = client.post("/v1/generate", content=body, headers=headers)
            assert answer.status_code == 400
            assert answer.json()["type"].endswith(kind)


def test_brackets_within_strings_do_not_count(bounded):
    with bounded.client() as client:
        answer = client.post("/v1/generate", json={"model": "[" * 500})
        assert answer.status_code == 404


def test_json_of_too_many_parts_is_refused(drawn_repository):
    with serving(drawn_repository) as server, server.client() as client:
        body = "[" + "[]," * 300_000 + "[]]"
        headers = {"content-type": "application/json"}
        began = time.monotonic()
        answer = client.post("/v1/generate", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["type"].endswith("json-too-many-parts")
        assert time.monotonic() - began < 10


def test_a_body_that_comes_too_slowly_is_408(bounded):
    with connected(bounded) as connection:
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body-too-slow" in answer


def test_headers_that_come_too_slowly_end_the_connection(bounded):
    with connected(bounded) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-")
        assert answer_of(connection).startswith(b"HTTP/1.1 408 ")
    with connected(bounded) as connection:
        # Nothing at all.
        assert answer_of(connection) == b""


def test_headers_that_are_too_large_are_431(bounded):
    with connected(bounded) as connection:
        lines = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 100) for i in range(100))
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 431 ")
    with connected(bounded) as connection:
        connection.sendall(b"GET /" + b"a" * 9000)
        assert answer_of(connection).startswith(b"HTTP/1.1 431 ")


def test_a_connection_that_is_kept_is_not_cut_between_its_requests(bounded):
    with bounded.client() as client:
        for _ in range(3):
            assert client.get("/v1/models").status_code == 200
            time.sleep(0.8)


WEBSOCKET = (
    b"GET /v1/models/cut HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# As Java's HttpClient begins every connection.
HTTP2 = (
    b"POST /v1/generate HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: x\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
    b"Content-Type: application/json\r\nContent-Length: 46\r\n\r\n"
    b'{"model": "cut", "seed": "as it was", "n": 1 }'
)
LAST = b"GET /v1/models/cut HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 10_000], ids="in pieces of {}".format)
def test_who_asks_for_another_protocol_is_answered_in_this_one(bounded, size):
    sent = WEBSOCKET + HTTP2 + HTTP2 + WEBSOCKET + LAST
    with connected(bounded) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), size):
            connection.sendall(sent[start : start + size])
        answer = answer_of(connection)
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", answer)
    assert statuses == [b"200", b"422", b"422", b"200", b"200"]
    # Of a body that is read, the field is wrong that is.
    assert answer.count(b'"detail": "seed: ') == 2
    assert "AttributeError" not in bounded.logged()


def test_a_tunnel_is_refused(bounded):
    with connected(bounded) as connection:
        connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 400 ")


def test_the_limits_in_force_are_in_the_document(bounded):
    with bounded.client() as client:
        document = client.get("/openapi.json").json()
        said = document["info"]["description"]
        assert "20,000 bytes" in said
        assert "No API key is required" in said
        assert "| reading a response | 1 MiB per 2 s |" in said
        assert "| images per job | 1,000,000 |" in said
        parameters = document["paths"]["/v1/generate"]["post"]["parameters"]
        assert "X-Deadline-Ms" in {parameter["name"] for parameter in parameters}


def test_a_deadline_of_ones_own_ends_in_504(bounded):
    with bounded.client() as client:
        body = {"model": "painted", "n": 200, "format": "npy"}
        answer = client.post("/v1/generate", json=body, headers={"x-deadline-ms": "1"})
        assert answer.status_code == 504
        answer = client.post("/v1/generate", json=body, headers={"x-deadline-ms": "never"})
        assert answer.status_code == 400
