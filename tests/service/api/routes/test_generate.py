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
from tests.support.tiny_recipes import TINY

MODEL = "dcgan-fashion"


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def expected(repository):
    """The pictures of seeds, made without the service."""
    model = Model(repository / MODEL / "1", Provider.CPU, ExecutionPlan(1, 1, 64))
    return lambda *seeds: model.generate(seeds)


def decode(content: bytes) -> np.ndarray:
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(content))))


def generate(client, accept=None, **body) -> httpx.Response:
    headers = {"accept": accept} if accept else {}
    return client.post("/v1/generate", json={"model": MODEL} | body, headers=headers)


def test_one_picture_comes_as_a_png_that_says_how_it_was_made(client, expected):
    answer = generate(client, "image/png", seed=7)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-ganymede-model"] == f"{MODEL}@1"
    np.testing.assert_array_equal(decode(answer.content), expected(7)[0])
    made = json.loads(Image.open(io.BytesIO(answer.content)).text["ganymede"])
    assert made == {
        "model": MODEL,
        "version": "1",
        "digest": answer.headers["x-ganymede-digest"],
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("accept", "wanted", "count", "media_type"),
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
def test_the_form_follows_the_format_and_then_accept(client, accept, wanted, count, media_type):
    body = {"format": wanted} if wanted else {}
    answer = generate(client, accept, seed=1, n=count, **body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type


def test_several_pictures_come_as_json_with_base64(client, expected):
    document = generate(client, seed=5, n=3).json()
    assert (document["model"], document["version"]) == (MODEL, "1")
    assert [image["seed"] for image in document["images"]] == [5, 6, 7]
    pictures = [decode(base64.b64decode(image["data"])) for image in document["images"]]
    np.testing.assert_array_equal(pictures, expected(5, 6, 7))
    document = generate(client, seeds=[9, 4, 9], format="webp").json()
    assert [image["media_type"] for image in document["images"]] == ["image/webp"] * 3
    pictures = [decode(base64.b64decode(image["data"]))[..., :1] for image in document["images"]]
    np.testing.assert_array_equal(pictures, expected(9, 4, 9))


def test_npy_and_zip_hold_the_pictures_in_order(client, expected):
    pixels = np.load(io.BytesIO(generate(client, seeds=[3, 1], format="npy").content))
    np.testing.assert_array_equal(pixels, expected(3, 1))
    archive = zipfile.ZipFile(io.BytesIO(generate(client, seeds=[3, 1], format="zip").content))
    assert archive.namelist() == ["0-seed-3.png", "1-seed-1.png"]
    pictures = [decode(archive.read(name)) for name in archive.namelist()]
    np.testing.assert_array_equal(pictures, expected(3, 1))


@pytest.mark.parametrize("model", TINY)
@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "npy", "zip", "json"])
def test_the_same_request_gives_the_same_bytes_alone_and_in_a_crowd(client, model, form):
    def ask(seed):
        return generate(client, model=model, seed=seed, format=form).content

    alone = {seed: ask(seed) for seed in range(0, 64, 9)}
    with ThreadPoolExecutor(64) as pool:
        crowd = list(pool.map(ask, range(64)))
    assert len(set(crowd)) == 64
    for seed, content in alone.items():
        assert crowd[seed] == content


def test_without_a_seed_every_request_gets_another_and_learns_which(client, expected):
    first, second = (generate(client).json()["images"][0] for _ in range(2))
    assert first["seed"] != second["seed"]
    np.testing.assert_array_equal(
        decode(base64.b64decode(first["data"])), expected(first["seed"])[0]
    )


def test_the_maximum_is_stated_and_is_the_maximum(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]
    maximum = schema["properties"]["n"]["anyOf"][0]["maximum"]
    assert generate(client, n=maximum, seed=0, format="npy").status_code == 200
    for body in ({"n": maximum + 1}, {"seeds": list(range(maximum + 1))}):
        answer = generate(client, **body)
        assert answer.status_code == 422
        assert str(maximum) in answer.json()["detail"]


BAD = {
    "n of zero": ({"n": 0}, 422, "n"),
    "a negative n": ({"n": -1}, 422, "n"),
    "n in words": ({"n": "two"}, 422, "n"),
    "n as a digit in a string": ({"n": "2"}, 422, "n"),
    "n as a truth value": ({"n": True}, 422, "n"),
    "half a picture": ({"n": 1.5}, 422, "n"),
    "a seed below the range": ({"seed": -1}, 422, "seed"),
    "a seed above the range": ({"seed": MAX_SEED + 1}, 422, "seed"),
    "seeds that run out of the range": ({"seed": MAX_SEED, "n": 2}, 422, "seed"),
    "a huge seed": ({"seed": 10**400}, 422, "seed"),
    "no seeds": ({"seeds": []}, 422, "seeds"),
    "a bad seed among good ones": ({"seeds": [1, -1]}, 422, "seeds.1"),
    "seed and seeds": ({"seed": 1, "seeds": [1]}, 422, "seeds"),
    "n and other seeds": ({"n": 3, "seeds": [1]}, 422, "n"),
    "an unknown format": ({"format": "bmp"}, 422, "format"),
    "an unknown field": ({"sede": 1}, 422, "sede"),
    "a model that is a number": ({"model": 7}, 422, "model"),
    "an unknown model": ({"model": "nope"}, 404, None),
    "an unknown version": ({"model": f"{MODEL}@9"}, 404, None),
    "an empty model": ({"model": ""}, 404, None),
}


def assert_problem(answer: httpx.Response, status: int, field: str | None = None) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:ganymede:problem:")
    assert problem["detail"]
    assert "Traceback" not in answer.text
    if field:
        assert field in [error["field"] for error in problem["errors"]]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_problem_that_names_the_field(client, name):
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
def test_a_body_that_is_no_request_is_a_problem(client, content, content_type):
    headers = {"content-type": content_type}
    answer = client.post("/v1/generate", content=content, headers=headers)
    assert 400 <= answer.status_code < 500
    assert_problem(answer, answer.status_code)


def problem_of(client, content: bytes, **headers: str) -> tuple[int, str, str]:
    said = {"content-type": "application/json"} | {k.replace("_", "-"): headers[k] for k in headers}
    answer = client.post("/v1/generate", content=content, headers=said)
    assert_problem(answer, answer.status_code)
    problem = answer.json()
    return answer.status_code, problem["type"].rpartition(":")[2], problem["detail"]


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
def test_a_body_that_json_does_not_allow_is_called_so(client, content):
    assert problem_of(client, content)[:2] == (400, "invalid-json")


def test_who_forgets_the_type_of_the_body_is_told_which_one_is_expected(client):
    body = json.dumps({"model": MODEL}).encode()
    # As curl -d sends it.
    form = "application/x-www-form-urlencoded"
    for kind in (form, "text/plain", "multipart/form-data", ""):
        status, name, detail = problem_of(client, body, content_type=kind)
        assert (status, name) == (415, "media-type-not-supported")
        assert "Content-Type: application/json" in detail


def test_a_packed_body_is_refused_by_the_name_of_its_packing(client):
    packed = gzip.compress(json.dumps({"model": MODEL}).encode())
    status, name, detail = problem_of(client, packed, content_encoding="gzip")
    assert (status, name) == (415, "encoding-not-supported")
    assert "gzip" in detail
    plain = {"content-encoding": "identity"}
    assert client.post("/v1/generate", json={"model": MODEL}, headers=plain).status_code == 200


def test_a_million_bad_seeds_cost_no_more_than_one(client):
    answer = generate(client, seeds=[-1] * 1_000_000)
    assert_problem(answer, 422)
    assert len(answer.content) < 10_000
    answer = client.post(
        "/v1/generate", json={"model": MODEL} | {f"x{i}": 1 for i in range(50_000)}
    )
    assert_problem(answer, 422)
    assert len(answer.content) < 10_000


def test_a_form_that_cannot_be_had_is_a_problem(client):
    for accept in ("text/html", "image/bmp", "image/png;q=0", ",;,", "image/png;q=x"):
        assert_problem(generate(client, accept, seed=1), 406)


def test_every_picture_has_an_address(client):
    picture = client.get(f"/v1/models/{MODEL}/images/7.png")
    assert picture.content == generate(client, "image/png", seed=7).content
    for extension, kind in {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.items():
        answer = client.get(f"/v1/models/{MODEL}/images/7.{extension}")
        assert answer.headers["content-type"] == f"image/{kind}"


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
def test_head_is_get_without_the_body(client, path):
    got, asked = client.get(path), client.head(path)
    assert asked.content == b""
    assert asked.status_code == got.status_code
    changing = {"date", "x-request-id"}
    assert {k: v for k, v in asked.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }


def test_what_may_not_be_done_says_what_may(client):
    assert client.delete("/v1/models").headers["allow"] == "GET, HEAD"
    assert client.delete("/v1/jobs").headers["allow"] == "GET, HEAD, POST"
    assert client.put("/").headers["allow"] == "GET, HEAD"
    assert client.head("/v1/generate").status_code == 405
    assert client.head("/v1/generate").headers["allow"] == "POST"


def test_a_picture_of_a_version_never_changes_and_is_not_made_again(client):
    pinned = client.get(f"/v1/models/{MODEL}/images/7.png?version=1")
    assert "immutable" in pinned.headers["cache-control"]
    assert (
        client.get(f"/v1/models/{MODEL}@1/images/7.png").headers["etag"] == pinned.headers["etag"]
    )
    latest = client.get(f"/v1/models/{MODEL}/images/7.png")
    assert "immutable" not in latest.headers["cache-control"]
    assert client.get(f"/v1/models/{MODEL}/images/8.png").headers["etag"] != latest.headers["etag"]
    again = client.get(
        f"/v1/models/{MODEL}/images/7.png", headers={"if-none-match": latest.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    any_of_them = client.get(f"/v1/models/{MODEL}/images/7.png", headers={"if-none-match": "*"})
    assert any_of_them.status_code == 304


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
def test_an_address_of_no_picture_is_a_problem(client, path, status):
    assert_problem(client.get(path), status)
