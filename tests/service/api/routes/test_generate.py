import base64
import gzip
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.responses import assert_problem, decode_image, npy_pixels
from tests.support.tiny_recipes import TINY

MODEL = "dcgan-fashion"


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def expected(repository):
    """Returns the images of seeds, generated without the service."""
    model = Model(repository / MODEL / "1", Provider.CPU, ExecutionPlan(1, 1, 64))
    return lambda *seeds: model.generate(seeds)


def generate(client, accept=None, **body) -> httpx.Response:
    headers = {"accept": accept} if accept else {}
    return client.post("/v1/generate", json={"model": MODEL} | body, headers=headers)


def test_png_contains_provenance(client, expected):
    response = generate(client, "image/png", seed=7)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-ganymede-model"] == f"{MODEL}@1"
    np.testing.assert_array_equal(decode_image(response.content), expected(7)[0])
    provenance = json.loads(Image.open(io.BytesIO(response.content)).text["ganymede"])
    assert provenance == {
        "model": MODEL,
        "version": "1",
        "digest": response.headers["x-ganymede-digest"],
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("accept", "requested", "count", "media_type"),
    [
        (None, None, 1, "application/json"),
        ("*/*", None, 1, "application/json"),
        ("image/*", None, 1, "image/png"),
        ("image/jpeg", None, 1, "image/jpeg"),
        ("image/webp;q=0.9, image/png;q=0.1", None, 1, "image/webp"),
        ("image/png", None, 2, "application/json"),
        ("image/png", "webp", 1, "image/webp"),
        ("application/zip", None, 1, "application/zip"),
        (None, "zip", 3, "application/zip"),
        ("application/x-npy", None, 3, "application/x-npy"),
        ("text/html", "npy", 1, "application/x-npy"),
    ],
)
def test_format_field_takes_precedence_over_accept(client, accept, requested, count, media_type):
    body = {"format": requested} if requested else {}
    response = generate(client, accept, seed=1, n=count, **body)
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type


def test_json_contains_base64_images(client, expected):
    document = generate(client, seed=5, n=3).json()
    assert (document["model"], document["version"]) == (MODEL, "1")
    assert [image["seed"] for image in document["images"]] == [5, 6, 7]
    images = [decode_image(base64.b64decode(image["data"])) for image in document["images"]]
    np.testing.assert_array_equal(images, expected(5, 6, 7))
    document = generate(client, seeds=[9, 4, 9], format="webp").json()
    assert [image["media_type"] for image in document["images"]] == ["image/webp"] * 3
    images = [
        decode_image(base64.b64decode(image["data"]))[..., :1] for image in document["images"]
    ]
    np.testing.assert_array_equal(images, expected(9, 4, 9))


def test_npy_and_zip_keep_the_order(client, expected):
    pixels = npy_pixels(generate(client, seeds=[3, 1], format="npy"))
    np.testing.assert_array_equal(pixels, expected(3, 1))
    archive = zipfile.ZipFile(io.BytesIO(generate(client, seeds=[3, 1], format="zip").content))
    assert archive.namelist() == ["0-seed-3.png", "1-seed-1.png"]
    images = [decode_image(archive.read(name)) for name in archive.namelist()]
    np.testing.assert_array_equal(images, expected(3, 1))


@pytest.mark.parametrize("model", TINY)
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "npy", "zip", "json"])
def test_bytes_do_not_depend_on_concurrent_requests(client, model, output_format):
    def content_of(seed):
        return generate(client, model=model, seed=seed, format=output_format).content

    alone = {seed: content_of(seed) for seed in range(0, 64, 9)}
    with ThreadPoolExecutor(64) as pool:
        concurrent = list(pool.map(content_of, range(64)))
    assert len(set(concurrent)) == 64
    for seed, content in alone.items():
        assert concurrent[seed] == content


def test_random_seed_is_returned(client, expected):
    first, second = (generate(client).json()["images"][0] for _ in range(2))
    assert first["seed"] != second["seed"]
    np.testing.assert_array_equal(
        decode_image(base64.b64decode(first["data"])), expected(first["seed"])[0]
    )


def test_documents_and_enforces_max_images(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]
    maximum = schema["properties"]["n"]["anyOf"][0]["maximum"]
    assert generate(client, n=maximum, seed=0, format="npy").status_code == 200
    for body in ({"n": maximum + 1}, {"seeds": list(range(maximum + 1))}):
        response = generate(client, **body)
        assert response.status_code == 422
        assert str(maximum) in response.json()["detail"]


BAD = {
    "zero images": ({"n": 0}, 422, "n"),
    "negative n": ({"n": -1}, 422, "n"),
    "n as a word": ({"n": "two"}, 422, "n"),
    "n as a digit in a string": ({"n": "2"}, 422, "n"),
    "n as a boolean": ({"n": True}, 422, "n"),
    "fractional n": ({"n": 1.5}, 422, "n"),
    "a seed below the range": ({"seed": -1}, 422, "seed"),
    "a seed above the range": ({"seed": MAX_SEED + 1}, 422, "seed"),
    "seed range exceeds maximum": ({"seed": MAX_SEED, "n": 2}, 422, "seed"),
    "a huge seed": ({"seed": 10**400}, 422, "seed"),
    "no seeds": ({"seeds": []}, 422, "seeds"),
    "one invalid seed": ({"seeds": [1, -1]}, 422, "seeds.1"),
    "seed and seeds": ({"seed": 1, "seeds": [1]}, 422, "seeds"),
    "n differs from number of seeds": ({"n": 3, "seeds": [1]}, 422, "n"),
    "an unknown format": ({"format": "bmp"}, 422, "format"),
    "an unknown field": ({"sede": 1}, 422, "sede"),
    "model as a number": ({"model": 7}, 422, "model"),
    "an unknown model": ({"model": "nope"}, 404, None),
    "an unknown version": ({"model": f"{MODEL}@9"}, 404, None),
    "an empty model": ({"model": ""}, 404, None),
}


@pytest.mark.parametrize("name", BAD)
def test_problem_names_invalid_field(client, name):
    body, status, field = BAD[name]
    assert_problem(generate(client, **body), status, field)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"model"',
        b"\xff\xfe",
        b"{'model': 'x'}",
        b"[" * 100_000,
        b'{"model": "dcgan-fashion", "seed": NaN}',
        b'{"model": "dcgan-fashion", "seed": 1e999}',
        b'{"model": "\\ud800"}',
        b'{"model": "\\u0000"}',
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data"])
def test_rejects_malformed_body(client, content, content_type):
    headers = {"content-type": content_type}
    response = client.post("/v1/generate", content=content, headers=headers)
    assert 400 <= response.status_code < 500
    assert_problem(response, response.status_code)


def problem_of(client, content: bytes, **headers: str) -> tuple[int, str, str]:
    """Post a body, and return the status, the type and the detail of the problem."""
    request_headers = {"content-type": "application/json"} | {
        k.replace("_", "-"): headers[k] for k in headers
    }
    response = client.post("/v1/generate", content=content, headers=request_headers)
    assert_problem(response, response.status_code)
    problem = response.json()
    return response.status_code, problem["type"].rpartition(":")[2], problem["detail"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "\xff"}',
        json.dumps({"model": MODEL}).encode("utf-16"),
        json.dumps({"model": MODEL}).encode("utf-32-be"),
        b'{"model": "dcgan-fashion", "seed": ' + b"7" * 5000 + b"}",
        b'{"model": "dcgan-fashion"} and more',
    ],
)
def test_reports_invalid_json(client, content):
    assert problem_of(client, content)[:2] == (400, "invalid-json")


@pytest.mark.parametrize("padding", [0, 2**16])
def test_reports_a_number_with_too_many_digits(client, padding):
    content = b'{"seed": ' + b"7" * 5000 + b"}" + b" " * padding
    assert problem_of(client, content)[2] == "the body is not JSON: a number has too many digits"


def test_wrong_content_type_names_expected_type(client):
    body = json.dumps({"model": MODEL}).encode()
    # The default of `curl -d`.
    form = "application/x-www-form-urlencoded"
    for kind in (form, "text/plain", "multipart/form-data", ""):
        status, name, detail = problem_of(client, body, content_type=kind)
        assert (status, name) == (415, "media-type-not-supported")
        assert "Content-Type: application/json" in detail


def test_rejects_content_encoding(client):
    compressed = gzip.compress(json.dumps({"model": MODEL}).encode())
    status, name, detail = problem_of(client, compressed, content_encoding="gzip")
    assert (status, name) == (415, "encoding-not-supported")
    assert "gzip" in detail
    identity = {"content-encoding": "identity"}
    assert client.post("/v1/generate", json={"model": MODEL}, headers=identity).status_code == 200


def test_bounds_size_of_problem(client):
    response = generate(client, seeds=[-1] * 1_000_000)
    assert_problem(response, 422)
    assert len(response.content) < 10_000
    response = client.post(
        "/v1/generate", json={"model": MODEL} | {f"x{i}": 1 for i in range(50_000)}
    )
    assert_problem(response, 422)
    assert len(response.content) < 10_000


def test_rejects_unsupported_accept(client):
    for accept in ("text/html", "image/bmp", "image/png;q=0", ",;,", "image/png;q=x"):
        assert_problem(generate(client, accept, seed=1), 406)


def test_image_url_equals_generate(client):
    image = client.get(f"/v1/models/{MODEL}/images/7.png")
    assert image.content == generate(client, "image/png", seed=7).content
    for extension, kind in {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.items():
        response = client.get(f"/v1/models/{MODEL}/images/7.{extension}")
        assert response.headers["content-type"] == f"image/{kind}"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/models",
        f"/v1/models/{MODEL}",
        f"/v1/models/{MODEL}/images/7.png?version=1",
        f"/v1/models/{MODEL}/images/7.bmp",
        "/v1/jobs",
        "/v2/health/ready",
        "/openapi.json",
    ],
)
def test_head_equals_get_without_body(client, path):
    get, head = client.get(path), client.head(path)
    assert head.content == b""
    assert head.status_code == get.status_code
    varying = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in get.headers.items() if k not in varying
    }


def test_method_not_allowed_lists_allowed_methods(client):
    assert client.delete("/v1/models").headers["allow"] == "GET, HEAD"
    assert client.delete("/v1/jobs").headers["allow"] == "GET, HEAD, POST"
    assert client.put("/").headers["allow"] == "GET, HEAD"
    assert client.head("/v1/generate").status_code == 405
    assert client.head("/v1/generate").headers["allow"] == "POST"


def test_image_urls_are_cacheable(client):
    pinned = client.get(f"/v1/models/{MODEL}/images/7.png?version=1")
    assert "immutable" in pinned.headers["cache-control"]
    assert (
        client.get(f"/v1/models/{MODEL}@1/images/7.png").headers["etag"] == pinned.headers["etag"]
    )
    latest = client.get(f"/v1/models/{MODEL}/images/7.png")
    assert "immutable" not in latest.headers["cache-control"]
    assert client.get(f"/v1/models/{MODEL}/images/8.png").headers["etag"] != latest.headers["etag"]
    cached = client.get(
        f"/v1/models/{MODEL}/images/7.png", headers={"if-none-match": latest.headers["etag"]}
    )
    assert (cached.status_code, cached.content) == (304, b"")
    with_wildcard = client.get(f"/v1/models/{MODEL}/images/7.png", headers={"if-none-match": "*"})
    assert with_wildcard.status_code == 304


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v1/models/{MODEL}/images/-1.png", 422),
        (f"/v1/models/{MODEL}/images/{MAX_SEED + 1}.png", 422),
        (f"/v1/models/{MODEL}/images/x.png", 422),
        (f"/v1/models/{MODEL}/images/7.bmp", 404),
        (f"/v1/models/{MODEL}/images/7", 404),
        ("/v1/models/nope/images/7.png", 404),
        (f"/v1/models/{MODEL}/images/7.png?version=9", 404),
    ],
)
def test_rejects_invalid_image_url(client, path, status):
    assert_problem(client.get(path), status)
