"""Authentication by the real service, with and without keys."""

import json
import re

import httpx
import pytest

from service.api_keys import add_key, revoke_key
from service.settings import is_loopback
from tests.support.servers import external_address, serving

GENERATE = {"model": "cut", "seed": 1}


@pytest.fixture(scope="module")
def keyed(drawn_repository, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    pixels = 24 * 24 * 10
    keys = {
        "plain": add_key(file, "plain"),
        "admin": add_key(file, "admin", admin=True),
        "poor": add_key(file, "poor", pixels_per_minute=pixels),
        "thrifty": add_key(file, "thrifty", pixels_per_minute=pixels),
    }
    with serving(drawn_repository, env={"GANYMEDE_KEYS": str(file)}) as server:
        yield server, keys, file


def test_requires_key_except_on_open_paths(keyed):
    server, _, _ = keyed
    with server.client() as client:
        pages = ("/", "/playground/bundle.js", "/docs", "/docs/initialize.js", "/openapi.json")
        for path in ("/livez", "/readyz", *pages):
            assert client.get(path).status_code == 200, path
        for path in ("/v1/models", "/v2/models/cut", "/metrics", "/v1/nowhere", "/nowhere"):
            response = client.get(path)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"].startswith("Bearer ")
        assert client.post("/v1/generate", json=GENERATE).status_code == 401
        assert client.post("/v1/admin/reload").status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/v1//models",
        "/docs/../v1/models",
        "/docs/%2e%2e/v1/models",
        "/%76%31/models",
        "/V1/models",
        "/v1/models?x=/docs",
        "/v1/models/",
        "/v1/admin/reload/",
        "/docs/..%2fv1/models",
        "/playground/../v1/models",
        "/playground/%2e%2e/v1/models",
    ],
)
def test_path_spellings_do_not_bypass_authentication(keyed, path):
    server, _, _ = keyed
    host = server.url.removeprefix("http://")
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        # Bypasses httpx's normalization of the path.
        request = httpx.Request(method, server.url)
        request.url = request.url.copy_with(raw_path=path.encode())
        with httpx.Client(follow_redirects=False) as client:
            response = client.send(request)
        assert response.status_code in (401, 404, 405), (method, path, host)
        assert b"painted" not in response.content


def test_accepts_bearer_and_header(keyed):
    server, keys, _ = keyed
    with server.client() as client:
        for headers in (
            {"authorization": f"Bearer {keys['plain']}"},
            {"authorization": f"bearer  {keys['plain']}"},
            {"x-api-key": keys["plain"]},
        ):
            assert client.post("/v1/generate", json=GENERATE, headers=headers).status_code == 200
        for headers in (
            {"authorization": f"Basic {keys['plain']}"},
            {"authorization": "Bearer"},
            {"authorization": "Bearer gnm_00000000_" + "x" * 43},
            {"x-api-key": keys["plain"][:-1]},
            {"x-api-key": b"\xff\xfe"},
        ):
            response = client.post("/v1/generate", json=GENERATE, headers=headers)
            assert response.status_code == 401
            assert "WWW-Authenticate" in response.headers


def test_log_names_the_key(keyed):
    server, keys, _ = keyed
    with server.client() as client:
        for name in ("poor", "plain"):
            # The key is logged for rejected requests too.
            headers = {"x-api-key": keys[name], "x-request-id": f"log-{name}"}
            assert client.post("/v1/admin/reload", headers=headers).status_code == 403
        client.get("/v1/models", headers={"x-request-id": "log-anonymous"})
        client.get("/v1/models", headers={"x-request-id": "log-last"})
    logged = (json.loads(line) for line in server.logged().splitlines() if line.startswith("{"))
    lines = {line["request_id"]: line for line in logged if "request_id" in line}
    assert lines["log-poor"]["key"] == "poor"
    assert lines["log-plain"]["key"] == "plain"
    assert "key" not in lines["log-anonymous"]
    assert not any(secret in server.logged() for secret in keys.values())


def test_errors_have_the_routes_format(keyed):
    server, _, _ = keyed
    with server.client() as client:
        ours = client.post("/v1/generate", json=GENERATE)
        assert ours.headers["content-type"] == "application/problem+json"
        assert ours.json()["type"] == "urn:ganymede:problem:key-needed"
        openai = client.post("/v1/images/generations", json={"model": "cut", "prompt": "cat"})
        assert openai.status_code == 401
        assert openai.json()["error"]["code"] == "key_needed"
        assert isinstance(client.get("/v2/models/cut").json()["error"], str)


def test_openai_client_authenticates(keyed):
    import openai

    server, keys, _ = keyed
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=keys["plain"], max_retries=0)
    assert client.images.generate(model="cut", prompt="cat", response_format="b64_json").data
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="gnm_x", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.images.generate(model="cut", prompt="cat")


def test_admin_routes_require_admin_key(keyed):
    server, keys, _ = keyed
    with server.client() as client:
        refused = client.post("/v1/admin/reload", headers={"x-api-key": keys["plain"]})
        assert refused.status_code == 403
        assert "insufficient_scope" in refused.headers["www-authenticate"]
        response = client.post("/v1/admin/reload", headers={"x-api-key": keys["admin"]})
        assert response.status_code == 200


def test_rejects_revoked_key_immediately(keyed):
    server, _, file = keyed
    headers = {"x-api-key": add_key(file, "short-lived")}
    with server.client() as client:
        assert client.get("/v1/models", headers=headers).status_code == 200
        revoke_key(file, "short-lived")
        response = client.get("/v1/models", headers=headers)
        assert response.status_code == 401
        assert response.json()["type"] == "urn:ganymede:problem:unknown-key"


def test_exceeded_rate_limit_gets_429_with_retry_after(keyed):
    server, keys, _ = keyed
    headers = {"x-api-key": keys["poor"]}
    with server.client() as client:
        first = client.post("/v1/generate", json=GENERATE | {"n": 10}, headers=headers)
        assert first.status_code == 200
        assert first.headers["ratelimit-limit"] == str(24 * 24 * 10)
        assert int(first.headers["ratelimit-remaining"]) < 24 * 24
        refused = client.post("/v1/generate", json=GENERATE | {"n": 5}, headers=headers)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:ganymede:problem:rate-limited"
        assert 0 < int(refused.headers["retry-after"]) <= 60
        never = client.post("/v1/generate", json=GENERATE | {"n": 11}, headers=headers)
        assert never.status_code == 422
        # Other keys are not affected.
        other = client.post("/v1/generate", json=GENERATE, headers={"x-api-key": keys["plain"]})
        assert other.status_code == 200
        assert "ratelimit-limit" not in other.headers


def test_rejected_requests_do_not_count_towards_rate_limit(keyed):
    server, keys, _ = keyed
    headers = {"x-api-key": keys["thrifty"]}
    with server.client() as client:
        for _ in range(20):
            invalid = GENERATE | {"n": 10, "class": "unknown"}
            assert client.post("/v1/generate", json=invalid, headers=headers).status_code == 422
        response = client.post("/v1/generate", json=GENERATE | {"n": 10}, headers=headers)
        assert response.status_code == 200


def test_openapi_document_requires_keys(keyed):
    server, _, _ = keyed
    with server.client() as client:
        document = client.get("/openapi.json").json()
    assert document["security"] == [{"bearer": []}, {"key": []}]
    assert "requires an API key" in document["info"]["description"]
    assert document["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"via": "1.1 proxy"},
    ],
)
def test_insecure_admin_excludes_web_pages_and_proxies(insecure_admin_server, headers):
    with insecure_admin_server.client() as client:
        assert client.post("/v1/admin/reload", headers=headers).status_code == 403


def test_without_keys_nobody_is_admin(drawn_server):
    with drawn_server.client() as client:
        response = client.post("/v1/admin/reload")
    assert response.status_code == 403
    assert "--insecure-admin" in response.json()["detail"]
    # A proxy that speaks HTTP/1.0 and adds no headers looks like a local program.
    with drawn_server.connect() as connection:
        connection.sendall(b"POST /v1/admin/reload HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 403")


@pytest.fixture(scope="module")
def insecure_admin_server(drawn_repository):
    with serving(drawn_repository, "--insecure-admin") as server:
        yield server


def test_insecure_admin_includes_local_programs(insecure_admin_server):
    with insecure_admin_server.client() as client:
        same = {"origin": insecure_admin_server.url, "sec-fetch-site": "same-origin"}
        assert client.post("/v1/admin/reload", headers=same).status_code == 200
        assert client.post("/v1/admin/reload").status_code == 200


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("::ffff:10.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_recognizes_loopback_addresses(host, is_one):
    assert is_loopback(host) is is_one


@pytest.mark.skipif(external_address() is None, reason="this machine has no other address")
def test_bentoml_serve_without_keys_accepts_only_local_requests(
    drawn_repository,
):
    import sys

    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Ganymede"]
    command += ["--host", "0.0.0.0"]
    env = {"GANYMEDE_MODELS": str(drawn_repository)}
    with serving(drawn_repository, command=command, env=env) as server:
        port = server.url.rpartition(":")[2]
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        refused = httpx.get(f"http://{external_address()}:{port}/v1/models")
        assert refused.status_code == 403
        assert refused.json()["type"] == "urn:ganymede:problem:keys-not-set-up"
        assert re.search("GANYMEDE_KEYS", refused.json()["detail"])
