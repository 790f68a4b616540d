"""Class-conditional generation over HTTP, against the real service."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.responses import assert_problem, decode_image, npy_pixels

MODEL = "cgan-fashion"


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def model(repository):
    return Model(repository / MODEL / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, route, **body):
    return client.post(f"/v1/{route}", json={"model": MODEL} | body)


def test_class_by_name_index_or_list(client, model):
    seeds = [3, 4, 5]
    expected = model.generate(seeds, [8, 8, 8])
    for class_ in ("bag", 8, ["bag", 8, "bag"]):
        response = post(client, "generate", seeds=seeds, format="npy", **{"class": class_})
        np.testing.assert_array_equal(npy_pixels(response), expected)
    response = post(client, "generate", seeds=seeds, format="npy", **{"class": ["dress", 0, "bag"]})
    np.testing.assert_array_equal(npy_pixels(response), model.generate(seeds, [3, 0, 8]))


def test_returns_class_in_body_headers_and_file(client):
    response = post(client, "generate", seed=7, **{"class": "sneaker"})
    (image,) = response.json()["images"]
    assert image["class"] == "sneaker"
    provenance = json.loads(
        Image.open(io.BytesIO(base64.b64decode(image["data"]))).text["ganymede"]
    )
    assert provenance["class"] == "sneaker"
    assert response.headers["x-ganymede-class"] == "7"
    # The default class follows from the seed.
    assert post(client, "generate", seed=12).json()["images"][0]["class"] == "pullover"


def test_image_url_accepts_class(client, model):
    path = f"/v1/models/{MODEL}/images/7.png"
    by_name, by_index = (client.get(path, params={"class": class_}) for class_ in ("coat", "4"))
    assert by_name.content == by_index.content
    assert by_name.headers["etag"] == by_index.headers["etag"]
    assert client.get(path).headers["etag"] != by_name.headers["etag"]
    np.testing.assert_array_equal(decode_image(by_name.content), model.generate([7], [4])[0])


def test_sample_classes_returns_count_per_class(client, model):
    body = {"classes": {"sneaker": 2, "bag": 1}, "seed": 5}
    images = post(client, "sample-classes", **body).json()["images"]
    assert [(i["seed"], i["class"]) for i in images] == [(5, "sneaker"), (6, "sneaker"), (7, "bag")]
    response = post(client, "sample-classes", format="npy", **body)
    np.testing.assert_array_equal(npy_pixels(response), model.generate([5, 6, 7], [7, 7, 8]))


def test_balanced_zip_has_folder_per_class(client, model):
    response = post(client, "sample-classes", per_class=3, seed=0, format="zip")
    names = zipfile.ZipFile(io.BytesIO(response.content)).namelist()
    assert len(names) == 30
    folders = [name.partition("/")[0] for name in names]
    assert {folder: folders.count(folder) for folder in folders} == dict.fromkeys(
        model.manifest.classes, 3
    )


def test_omits_header_that_is_too_long(client, model):
    blend = dict.fromkeys(model.manifest.classes, 1.0)
    response = post(client, "sample-classes", blend=blend, n=256, seed=0, format="npy")
    assert response.headers["x-ganymede-seed"] == ",".join(map(str, range(256)))
    assert "x-ganymede-class" not in response.headers
    assert sum(len(k) + len(v) for k, v in response.headers.items()) < 8000
    response = post(client, "sample-classes", blend=blend, n=40, format="json")
    assert all(len(image["blend"]) == 10 for image in response.json()["images"])


@pytest.mark.parametrize(("name", "folder"), [("..", "-/"), ("a/b", "a-b/"), ("größe", "größe/")])
def test_class_folder_is_a_valid_name(name, folder):
    from service.api.routes.generate import _class_folder

    assert _class_folder({0: 1.0}, [name]) == folder


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("generate", {"class": "spaceship"}, "class"),
        ("generate", {"class": 10}, "class"),
        ("generate", {"class": -1}, "class"),
        ("generate", {"class": 1.5}, "class"),
        ("generate", {"class": ["bag"], "n": 2}, "class"),
        ("generate", {"class": []}, "class"),
        ("generate", {"model": "gan-mnist", "class": "7"}, "class"),
        ("sample-classes", {}, "classes"),
        ("sample-classes", {"classes": {}}, "classes"),
        ("sample-classes", {"classes": {"bag": 1}, "per_class": 1}, "classes"),
        ("sample-classes", {"classes": {"spaceship": 1}}, "classes"),
        ("sample-classes", {"classes": {"bag": 0}}, "classes.bag"),
        ("sample-classes", {"classes": {"bag": 10**9}}, "classes"),
        ("sample-classes", {"per_class": 1000}, "classes"),
        ("sample-classes", {"per_class": 1, "seed": 2**32 - 3}, "seed"),
        ("sample-classes", {"model": "gan-mnist", "per_class": 1}, "model"),
    ],
)
def test_problem_names_invalid_field(client, route, body, field):
    response = post(client, route, **body)
    assert_problem(response, 422)
    assert any(error["field"].startswith(field) for error in response.json()["errors"])


def test_image_url_rejects_unknown_class(client):
    for class_ in ("spaceship", "10", "-1", "9" * 50, "²"):
        response = client.get(f"/v1/models/{MODEL}/images/7.png", params={"class": class_})
        assert_problem(response, 422)
