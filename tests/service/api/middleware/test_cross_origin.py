"""Responses to pages of other origins, from every layer of the real service."""

import re
import signal

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from service.api.middleware.cross_origin import cross_origin
from service.api_keys import add_key
from tests.support.servers import serving, wait_until

ORIGIN = "https://app.example.com"
OTHER = "http://localhost:5173"
UNKNOWN = "https://elsewhere.example"
# One image of 24 × 24 pixels a minute.
RATE = 24 * 24


@pytest.fixture(scope="module")
def keyed(drawn_repository, tmp_path_factory):
    """A server for two origins that requires a key, and its key."""
    folder = tmp_path_factory.mktemp("cross-origin")
    key = add_key(folder / "keys.json", "test")
    flags = ["--cors-origin", ORIGIN, "--cors-origin", OTHER, "--keys", str(folder / "keys.json")]
    limits = ["--pixels-per-minute", str(RATE), "--max-body-bytes", "2000"]
    with serving(drawn_repository, *flags, *limits) as server:
        yield server, key


@pytest.fixture
def client(keyed):
    server, key = keyed
    headers = {"origin": ORIGIN, "authorization": f"Bearer {key}"}
    with server.client(headers=headers) as client:
        yield client


def preflight(client, path, method, headers="authorization,content-type", origin=ORIGIN):
    asked = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }
    # Browsers send no key with a preflight.
    return client.options(path, headers={**asked, "authorization": ""})


def varies_by_origin(response) -> bool:
    return "origin" in [name.strip().lower() for name in response.headers["vary"].split(",")]


def test_preflight_for_every_route_needs_no_key(client):
    paths = client.get("/openapi.json").json()["paths"]
    operations = [
        (re.sub(r"\{[^}]+\}", "1", path), method.upper())
        for path, methods in paths.items()
        for method in methods
    ]
    assert len(operations) > 30
    unlisted = [("/livez", "GET"), ("/readyz", "GET"), ("/", "GET"), ("/docs", "GET")]
    for path, method in [*operations, *unlisted]:
        response = preflight(client, path, method)
        assert response.status_code == 204, path
        headers = response.headers
        assert headers["access-control-allow-origin"] == ORIGIN
        assert method in headers["access-control-allow-methods"].split(", ")
        assert headers["access-control-allow-headers"] == "authorization,content-type"
        assert int(headers["access-control-max-age"]) > 0
        assert "access-control-allow-credentials" not in headers
        assert varies_by_origin(response)


def test_preflight_of_an_unknown_origin_is_refused_with_the_reason(client):
    response = preflight(client, "/v1/generate", "POST", origin=UNKNOWN)
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:ganymede:problem:origin-not-allowed"
    assert UNKNOWN in problem["detail"]
    assert "access-control-allow-origin" not in response.headers
    assert varies_by_origin(response)
    patch = preflight(client, "/v1/generate", "PATCH")
    assert patch.status_code == 403
    assert "PATCH" in patch.json()["detail"]


def test_preflight_permits_a_service_on_a_private_network(client):
    headers = {
        "origin": ORIGIN,
        "access-control-request-method": "GET",
        "access-control-request-private-network": "true",
    }
    response = client.options("/v1/models", headers=headers)
    assert response.status_code == 204
    assert response.headers["access-control-allow-private-network"] == "true"


def test_preflights_use_no_pixels_of_the_rate_limit(client):
    for _ in range(3):
        assert preflight(client, "/v1/generate", "POST").status_code == 204
    body = {"model": "cut", "seed": 1, "class": 0}
    first, second = (client.post("/v1/generate", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["x-ganymede-seed"] == "1"
    for response in (first, second):
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["access-control-expose-headers"] == "*"
    assert second.headers["retry-after"]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/models", {}, 200),
        ("GET", "/v1/models", {"headers": {"authorization": ""}}, 401),
        ("GET", "/v1/models", {"headers": {"authorization": "Bearer gnm_x"}}, 401),
        ("POST", "/v1/admin/models/reload", {}, 403),
        ("GET", "/nowhere", {}, 404),
        ("GET", "/v1/generate", {}, 405),
        ("POST", "/v1/generate", {"json": {"model": "cut", "n": 0}}, 422),
        ("POST", "/v1/generate", {"json": {"x": "y" * 3000}}, 413),
        ("POST", "/v1/images/generations", {"json": {"model": "no", "prompt": "1"}}, 404),
        ("GET", "/v2/models/no", {}, 404),
        ("GET", "/readyz", {}, 200),
        ("GET", "/livez", {}, 200),
        ("GET", "/metrics", {}, 200),
    ],
)
def test_responses_of_every_layer_can_be_read(client, method, path, options, status):
    response = client.request(method, path, **options)
    assert response.status_code == status
    assert response.headers.get_list("access-control-allow-origin") == [ORIGIN]
    assert response.headers["access-control-expose-headers"] == "*"
    assert varies_by_origin(response)


def test_not_modified_image_can_be_read(client):
    address = "/v1/models/cut/images/7.png?class=1"
    image = client.get(address, headers={"if-none-match": "*"})
    assert image.status_code == 304
    assert image.headers["etag"]
    assert image.headers["access-control-allow-origin"] == ORIGIN
    assert varies_by_origin(image)


@pytest.mark.parametrize("origin", [None, UNKNOWN, "null", f"{ORIGIN}.evil.example"])
def test_caches_keep_responses_to_other_origins_apart(keyed, origin):
    server, key = keyed
    headers = {"authorization": f"Bearer {key}"} | ({"origin": origin} if origin else {})
    with server.client(headers=headers) as client:
        response = client.get("/v1/models")
        page = client.get("/")
    assert response.status_code == 200
    for each in (response, page):
        assert "access-control-allow-origin" not in each.headers
        assert varies_by_origin(each)
    # What the response varied by before.
    assert "accept-encoding" in page.headers["vary"].lower()


def test_unready_service_for_all_origins_can_be_read(tmp_path):
    env = {"GANYMEDE_CORS_ORIGINS": "*"}
    with (
        serving(tmp_path, env=env, until="live") as server,
        server.client(headers={"origin": UNKNOWN}) as client,
    ):
        wait_until(lambda: "it is empty" in client.get("/readyz").text)
        body = {"model": "any", "seed": 1}
        refused = [client.get("/readyz"), client.post("/v1/generate", json=body)]
        asked = preflight(client, "/v1/generate", "POST", origin="null")
    for response in refused:
        assert response.status_code == 503
        assert response.headers["access-control-allow-origin"] == "*"
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in asked.headers


@pytest.mark.slow
def test_responses_of_a_stopping_service_can_be_read(drawn_repository):
    head = f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\nContent-Length: 1000\r\n"
    with (
        serving(drawn_repository, "--cors-origin", ORIGIN) as server,
        server.connect() as incomplete_body,
        server.client(headers={"origin": ORIGIN}) as client,
    ):
        incomplete_body.sendall(f'{head}Content-Type: application/json\r\n\r\n{{"mod'.encode())
        # On the same connection later: it was accepted before the service stops.
        assert client.get("/v1/models").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        received = incomplete_body.recv(65536)
    assert received.startswith(b"HTTP/1.1 503 ")
    assert f"access-control-allow-origin: {ORIGIN}".encode() in received


def test_without_origins_nothing_changes(drawn_server):
    with drawn_server.client(headers={"origin": ORIGIN}) as client:
        response = client.get("/v1/models")
        assert preflight(client, "/v1/generate", "POST").status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert "vary" not in response.headers


def test_keyless_administration_is_not_given_to_allowed_pages(drawn_repository, tmp_path):
    flags = ("--cors-origin", ORIGIN, "--insecure-admin")
    with serving(drawn_repository, *flags) as server, server.client() as client:
        path = "/v1/admin/reload"
        assert client.post(path).status_code == 200
        refused = client.post(path, headers={"origin": ORIGIN})
    assert refused.status_code == 403
    assert refused.headers["access-control-allow-origin"] == ORIGIN


def test_unexpected_errors_can_be_read():
    def fail(_):
        raise RuntimeError("broken")

    async def respond(_):
        return Response("x", headers={"vary": "Accept", "access-control-allow-origin": "x"})

    app = Starlette(routes=[Route("/fail", fail), Route("/", respond)])
    client = TestClient(cross_origin(app, (ORIGIN,)), raise_server_exceptions=False)
    failed = client.get("/fail", headers={"origin": ORIGIN})
    assert failed.status_code == 500
    assert failed.headers["access-control-allow-origin"] == ORIGIN
    response = client.get("/", headers={"origin": ORIGIN})
    assert response.headers.get_list("access-control-allow-origin") == [ORIGIN]
    assert response.headers["vary"] == "Accept, Origin"
    assert cross_origin(app, ()) is app
