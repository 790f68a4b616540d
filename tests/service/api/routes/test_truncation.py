"""Truncation over HTTP, against the real service."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.responses import assert_problem, decode_image, npy_pixels

MODELS = ["cut", "painted-classes"]


def post(client, route="generate", model="cut", **body):
    return client.post(f"/v1/{route}", json={"model": model} | body)


@pytest.mark.parametrize("name", MODELS)
def test_truncation_as_number_or_list(client, load, name):
    model, seeds = load(name), [3, 4, 5]
    for truncation, each in ((0.25, [0.25] * 3), (1, [1.0] * 3), ([0, 0.5, 1.5], [0.0, 0.5, 1.5])):
        response = post(client, model=name, seeds=seeds, truncation=truncation, format="npy")
        np.testing.assert_array_equal(npy_pixels(response), model.generate(seeds, None, each))
    response = post(client, model=name, seeds=seeds, format="npy")
    np.testing.assert_array_equal(npy_pixels(response), model.generate(seeds, None, [0.7] * 3))


@given(truncation=st.floats(0, 1.5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_returns_truncation_exactly(drawn_server, truncation, seed):
    with drawn_server.client() as client:
        response = post(client, seed=seed, truncation=truncation)
    assert response.json()["images"][0]["truncation"] == truncation
    assert float(response.headers["x-ganymede-truncation"]) == truncation


def test_returns_truncation_in_body_headers_and_file(client):
    response = post(client, seeds=[1, 2], truncation=[0.5, 1])
    assert [image["truncation"] for image in response.json()["images"]] == [0.5, 1.0]
    assert response.headers["x-ganymede-truncation"] == "0.5,1.0"
    file = base64.b64decode(response.json()["images"][0]["data"])
    provenance = json.loads(Image.open(io.BytesIO(file)).text["ganymede"])
    assert (provenance["seed"], provenance["class"], provenance["truncation"]) == (1, "dog", 0.5)
    # The default is returned, too: it may differ in a later version of the model.
    assert post(client, seed=1).json()["images"][0]["truncation"] == 0.7


def test_omits_truncation_without_support(client):
    response = post(client, model="painted", seed=1)
    assert "truncation" not in response.json()["images"][0]
    assert "x-ganymede-truncation" not in response.headers


def test_sample_classes_accepts_truncation(client, load):
    body = {"classes": {"dog": 2, "night owl": 1}, "seed": 5, "truncation": 0.4}
    response = post(client, "sample-classes", format="npy", **body)
    expected = load("cut").generate([5, 6, 7], [1, 1, 2], [0.4] * 3)
    np.testing.assert_array_equal(npy_pixels(response), expected)
    archive = zipfile.ZipFile(
        io.BytesIO(post(client, "sample-classes", format="zip", **body).content)
    )
    assert archive.namelist() == ["dog/0-seed-5.png", "dog/1-seed-6.png", "night-owl/2-seed-7.png"]


def test_image_url_accepts_truncation(client, load):
    path = "/v1/models/cut/images/7.png"
    half, same, full = (
        client.get(path, params={"truncation": value}) for value in ("0.5", "0.50", "1")
    )
    np.testing.assert_array_equal(
        decode_image(half.content), load("cut").generate([7], None, [0.5])[0]
    )
    assert half.content == same.content
    assert half.headers["etag"] == same.headers["etag"] != full.headers["etag"]
    assert half.headers["x-ganymede-truncation"] == "0.5"
    default, explicit = client.get(path), client.get(path, params={"truncation": 0.7})
    assert default.headers["etag"] == explicit.headers["etag"]
    cached = client.get(
        path, params={"truncation": 0.5}, headers={"if-none-match": half.headers["etag"]}
    )
    assert cached.status_code == 304


def test_model_shows_truncation_range(client):
    cards = {card["name"]: card for card in client.get("/v1/models").json()["data"]}
    assert cards["cut"]["truncation"] == {"default": 0.7, "minimum": 0.0, "maximum": 1.5}
    assert "truncation" not in cards["painted"]


def test_rejects_truncation_out_of_range(client):
    for response in (
        post(client, truncation=1.6),
        post(client, truncation=-0.1),
        post(client, truncation=10**30),
        post(client, n=2, truncation=[0.5, 2]),
        post(client, "sample-classes", per_class=1, truncation=2),
        client.get("/v1/models/cut/images/7.png?truncation=2"),
    ):
        assert_problem(response, 422, "truncation")
        assert "0 to 1.5" in response.json()["detail"]


def test_rejects_truncation_without_support(client):
    for response in (
        post(client, model="painted", truncation=0.5),
        client.get("/v1/models/painted/images/7.png?truncation=0.5"),
    ):
        assert_problem(response, 422, "truncation")
        assert "painted does not support truncation" in response.json()["detail"]


@pytest.mark.parametrize(
    "truncation",
    [
        *("NaN", "Infinity", "-Infinity", "1e999", "true", '"0.5"', "{}", "1" * 400),
        *("[]", "[0.5, 0.5]", "[true]", "[NaN]"),
    ],
)
@pytest.mark.parametrize("route", ["generate", "sample-classes"])
def test_rejects_non_numeric_truncation(client, route, truncation):
    fields = '"per_class": 1' if route == "sample-classes" else '"n": 1'
    response = client.post(
        f"/v1/{route}",
        content=f'{{"model": "cut", {fields}, "truncation": {truncation}}}',
        headers={"content-type": "application/json"},
    )
    assert_problem(response, 422)
    assert any(error["field"].startswith("truncation") for error in response.json()["errors"])


@pytest.mark.parametrize("truncation", ["nan", "inf", "-inf", "1e999", "true", "", "0,5"])
def test_image_url_rejects_non_numeric_truncation(client, truncation):
    response = client.get("/v1/models/cut/images/7.png", params={"truncation": truncation})
    assert_problem(response, 422)


def test_log_has_no_stack_trace(drawn_server):
    assert "Traceback" not in drawn_server.logged()
