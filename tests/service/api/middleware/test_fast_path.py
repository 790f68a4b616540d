"""The fast path gives the same responses as FastAPI."""

from __future__ import annotations

import json

import httpx
import pytest
from fastapi.routing import APIRoute

from service.api.app import create_app
from service.api.middleware.json_bodies import LARGE_BODY
from service.runtime.scheduling.engine import Engine
from service.settings import Settings

# The fast path ignores requests with this content type, so that FastAPI handles them.
_BY_FASTAPI = "application/json; charset=utf-8"
_VARYING_HEADERS = ("x-request-id", "date")

BODIES = {
    "one": b'{"model": "cut", "seed": 7, "format": "png"}',
    "several": b'{"model": "cut", "seeds": [7, 8, 9]}',
    "by class": b'{"model": "painted-classes", "n": 2, "seed": 3, "class": 1}',
    "twice the same key": b'{"model": "cut", "seed": 7, "seed": 8, "format": "png"}',
    "no such model": b'{"model": "unknown", "seed": 7}',
    "a field too much": b'{"model": "cut", "sed": 7}',
    "a number as text": b'{"model": "cut", "seed": "7"}',
    "a number with a point": b'{"model": "cut", "seed": 7.0}',
    "not a number": b'{"model": "cut", "seed": 7, "truncation": NaN}',
    "two sources": b'{"model": "cut", "seed": 7, "seeds": [7]}',
    "too many": b'{"model": "cut", "seed": 7, "n": 9999}',
    "no object": b"[1, 2]",
    "half an object": b'{"model": "cut", ',
    "no UTF-8": b'{"model": "\xff"}',
    "half a character": b'{"model": "\\ud800"}',
    "a number of thousands of digits": b'{"model": "cut", "seed": ' + b"9" * 5000 + b"}",
    "nothing": b"",
}


def send_post(
    client: httpx.Client, path: str, body: bytes, kind: str
) -> tuple[int, dict[str, str], bytes]:
    headers = {"content-type": kind, "x-request-id": "same"}
    response = client.post(path, content=body, headers=headers)
    compared = {
        name: text for name, text in response.headers.items() if name not in _VARYING_HEADERS
    }
    return response.status_code, compared, response.content


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/sample-classes"])
def test_same_response_as_through_fastapi(drawn_server, path, body):
    with drawn_server.client() as client:
        fast = send_post(client, path, body, "application/json")
        assert fast == send_post(client, path, body, _BY_FASTAPI)


@pytest.mark.parametrize("kinds", [("text/plain", "application/json"), ("application/json",) * 2])
@pytest.mark.parametrize(
    "body",
    [
        BODIES["one"],
        b'{"model": ' + b"[" * 300 + b"]" * 300 + b"}",
        BODIES["one"].decode().encode("utf-16"),
    ],
    ids=["one", "deep", "UTF-16"],
)
def test_repeated_content_type_does_not_bypass_limits(drawn_server, kinds, body):
    with drawn_server.client() as client:
        first = [("content-type", kinds[0])]
        twice = [("content-type", kind) for kind in kinds]
        expected = client.post("/v1/generate", content=body, headers=first)
        response = client.post("/v1/generate", content=body, headers=twice)
        assert response.status_code == expected.status_code


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_valid_requests_bypass_fastapi(drawn_repository, monkeypatch):
    engine = Engine(drawn_repository, provider="cpu", queue_pixels=2**20)
    engine.start()
    app = create_app(engine, Settings(models=drawn_repository))
    handled = []
    handle = APIRoute.handle

    async def noted(self, scope, receive, send):
        handled.append(scope["path"])
        await handle(self, scope, receive, send)

    monkeypatch.setattr(APIRoute, "handle", noted)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.post("/v1/generate", json={"model": "cut"})).status_code == 200
        assert (await client.post("/v1/generate", json={"model": "unknown"})).status_code == 404
        assert handled == []
        assert (await client.post("/v1/generate", json={"modle": "cut"})).status_code == 422
        assert (await client.get("/v1/generate")).status_code == 405
        assert handled
        # Both code paths count under the same route.
        text = (await client.get("/metrics")).text
        assert 'route="/v1/generate",status="200"' in text
        assert 'route="/v1/generate",status="422"' in text
    assert engine.drain(30)


def test_reads_chunked_body(drawn_server):
    def pieces():
        yield b'{"model": "cut",'
        yield b' "seed": 7, "format": "png"}'

    headers = {"content-type": "application/json"}
    with drawn_server.client() as client:
        response = client.post("/v1/generate", content=pieces(), headers=headers)
        single_body = client.post("/v1/generate", content=b"".join(pieces()), headers=headers)
    assert response.status_code == 200
    assert response.content == single_body.content


def test_json_response_lists_images_in_seed_order(drawn_server):
    with drawn_server.client() as client:
        _, _, content = send_post(client, "/v1/generate", BODIES["several"], "application/json")
    assert [image["seed"] for image in json.loads(content)["images"]] == [7, 8, 9]


def padded(document) -> bytes:
    """Return a JSON body that is processed as a large one."""
    return json.dumps(document).encode() + b" " * LARGE_BODY


LARGE_BODIES = {
    "valid": ("/v1/generate", {"model": "cut", "seeds": [7, 8]}),
    "unknown fields": ("/v1/generate", {"model": "cut"} | {f"k{i}": i for i in range(10)}),
    "no such model": ("/v1/mix-styles", {"model": "unknown", "rows": [1], "columns": [2]}),
    "mixed": ("/v1/mix-styles", {"model": "painted", "rows": [1, 2], "columns": [3]}),
    "wrong type": ("/v1/interpolate", {"model": "cut", "sources": ["a", 2]}),
    "animation": ("/v1/interpolate", {"model": "cut", "sources": [1, 2], "frames": 3}),
    "no object": ("/v1/images/generations", [1]),
    "by class": ("/v1/sample-classes", {"model": "cut", "classes": {"cat": 0, "dog": 1}}),
    "no count": ("/v1/jobs", {"model": "cut"}),
}


@pytest.mark.parametrize(("path", "document"), LARGE_BODIES.values(), ids=LARGE_BODIES)
@pytest.mark.parametrize("kind", ["application/json", "application/vnd.api+json; charset=utf-8"])
def test_large_body_gets_the_same_response(drawn_server, path, document, kind):
    with drawn_server.client() as client:
        small = send_post(client, path, json.dumps(document).encode(), kind)
        assert send_post(client, path, padded(document), kind) == small


@pytest.mark.parametrize("body", [b'{"model": "cut", ', b"\xff", b"9" * 5000])
def test_large_body_that_is_no_json_gets_the_same_response(drawn_server, body):
    with drawn_server.client() as client:
        small = send_post(client, "/v1/generate", body, "application/json")
        large = send_post(client, "/v1/generate", b" " * LARGE_BODY + body, "application/json")
    assert (small[0], large[0]) == (400, 400)
    assert json.loads(small[2])["type"] == json.loads(large[2])["type"]


def test_reports_the_first_of_many_errors(drawn_server):
    numbers = {f"k{i}": -1 for i in range(9000)}
    bodies = {
        "/v1/generate": {"model": "cut"} | numbers,
        "/v1/sample-classes": {"model": "cut", "classes": numbers},
        "/v1/jobs": {"model": "cut", "classes": numbers},
    }
    with drawn_server.client() as client:
        for path, body in bodies.items():
            response = client.post(path, json=body)
            assert response.status_code == 422
            assert 1 <= len(response.json()["errors"]) <= 20
