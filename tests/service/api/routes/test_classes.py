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
from tests.service.api.routes.test_generate import assert_problem, decode

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


def pixels(answer) -> np.ndarray:
    return np.load(io.BytesIO(answer.content))


def test_a_class_is_given_by_name_or_index_or_one_a_picture(client, model):
    seeds = [3, 4, 5]
    expected = model.generate(seeds, [8, 8, 8])
    for wish in ("bag", 8, ["bag", 8, "bag"]):
        answer = post(client, "generate", seeds=seeds, format="npy", **{"class": wish})
        np.testing.assert_array_equal(pixels(answer), expected)
    answer = post(client, "generate", seeds=seeds, format="npy", **{"class": ["dress", 0, "bag"]})
    np.testing.assert_array_equal(pixels(answer), model.generate(seeds, [3, 0, 8]))


def test_a_picture_says_its_class_wherever_it_goes(client):
    answer = post(client, "generate", seed=7, **{"class": "sneaker"})
    (image,) = answer.json()["images"]
    assert image["class"] == "sneaker"
    made = json.loads(Image.open(io.BytesIO(base64.b64decode(image["data"]))).text["ganymede"])
    assert made["class"] == "sneaker"
    assert answer.headers["x-ganymede-class"] == "7"
    # Without a wish, the class that the seed stands for.
    assert post(client, "generate", seed=12).json()["images"][0]["class"] == "pullover"


def test_the_address_of_a_picture_takes_a_class(client, model):
    path = f"/v1/models/{MODEL}/images/7.png"
    by_name, by_index = (client.get(path, params={"class": wish}) for wish in ("coat", "4"))
    assert by_name.content == by_index.content
    assert by_name.headers["etag"] == by_index.headers["etag"]
    assert client.get(path).headers["etag"] != by_name.headers["etag"]
    np.testing.assert_array_equal(decode(by_name.content), model.generate([7], [4])[0])


def test_sample_classes_makes_so_many_of_each(client, model):
    body = {"classes": {"sneaker": 2, "bag": 1}, "seed": 5}
    images = post(client, "sample-classes", **body).json()["images"]
    assert [(i["seed"], i["class"]) for i in images] == [(5, "sneaker"), (6, "sneaker"), (7, "bag")]
    answer = post(client, "sample-classes", format="npy", **body)
    np.testing.assert_array_equal(pixels(answer), model.generate([5, 6, 7], [7, 7, 8]))


def test_a_balanced_set_has_every_class_and_its_zip_a_folder_for_each(client, model):
    answer = post(client, "sample-classes", per_class=3, seed=0, format="zip")
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert len(names) == 30
    folders = [name.partition("/")[0] for name in names]
    assert {folder: folders.count(folder) for folder in folders} == dict.fromkeys(
        model.manifest.classes, 3
    )


def test_what_is_too_long_for_a_header_is_left_out_of_them_and_not_of_the_pictures(client, model):
    blend = dict.fromkeys(model.manifest.classes, 1.0)
    answer = post(client, "sample-classes", blend=blend, n=256, seed=0, format="npy")
    assert answer.headers["x-ganymede-seed"] == ",".join(map(str, range(256)))
    assert "x-ganymede-class" not in answer.headers
    assert sum(len(k) + len(v) for k, v in answer.headers.items()) < 8000
    answer = post(client, "sample-classes", blend=blend, n=40, format="json")
    assert all(len(image["blend"]) == 10 for image in answer.json()["images"])


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
def test_a_wish_that_cannot_be_met_is_a_problem_that_names_the_field(client, route, body, field):
    answer = post(client, route, **body)
    assert_problem(answer, 422)
    assert any(error["field"].startswith(field) for error in answer.json()["errors"])


def test_an_address_with_a_class_that_is_not_there_is_a_problem(client):
    for wish in ("spaceship", "10", "-1", "9" * 50, "²"):
        answer = client.get(f"/v1/models/{MODEL}/images/7.png", params={"class": wish})
        assert_problem(answer, 422)
