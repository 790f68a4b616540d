"""Latents, styles, blends and distributions of classes over HTTP, against the real service."""

import base64
import io
import json
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.runtime.latent.sources import decode_floats, draw_class, encode_floats
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.service.api.routes.test_generate import assert_problem, decode
from tests.support.drawn_models import CLASSES, LAYERS, W, Z


@pytest.fixture
def client(drawn_server):
    with drawn_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, route="generate", **body) -> httpx.Response:
    return client.post(f"/v1/{route}", json={"model": "painted-classes"} | body)


def pixels(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def test_a_latent_makes_the_picture_of_its_seed(client, load):
    model = load("painted-classes")
    z = model.feeds([7, 8])["z"]
    made = pixels(
        post(client, z=[z[0].tolist(), encode_floats(z[1])], **{"class": "dog"}, format="npy")
    )
    np.testing.assert_array_equal(made, model.generate([7, 8], [1, 1]))


def test_styles_make_the_picture_of_their_seed(client, load):
    model = load("painted-classes")
    w = model.styles([7, 8])
    wanted = [w[0].tolist(), encode_floats(w[1]), w[0, 0].tolist()]
    made = pixels(post(client, w=wanted, format="npy"))
    expected = model.synthesize(np.stack([w[0], w[1], np.broadcast_to(w[0, 0], w[0].shape)]))
    np.testing.assert_array_equal(made, expected)


def test_what_comes_back_of_a_picture_makes_it_again(client):
    body = {"seed": 7, "n": 2, "class": "dog", "truncation": 0.5, "return": ["w", "z"]}
    answer = post(client, **body)
    images = answer.json()["images"]
    first = np.array([decode(base64.b64decode(image["data"])) for image in images])
    assert decode_floats(images[0]["z"]).shape == (Z,)
    assert decode_floats(images[0]["w"]).shape == (LAYERS * W,)
    by_z = {"z": [image["z"] for image in images], "class": "dog", "truncation": 0.5}
    np.testing.assert_array_equal(pixels(post(client, **by_z, format="npy")), first)
    by_w = {"w": [image["w"] for image in images]}
    np.testing.assert_array_equal(pixels(post(client, **by_w, format="npy")), first)
    # Asking for them does not change the pictures.
    del body["return"]
    np.testing.assert_array_equal(pixels(post(client, **body, format="npy")), first)


def test_an_archive_holds_what_comes_back_as_arrays(client, load):
    answer = post(client, seed=7, **{"return": ["w"]}, format="zip")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == ["0-seed-7.png", "0-seed-7.w.npy"]
    w = np.load(io.BytesIO(archive.read("0-seed-7.w.npy")))
    np.testing.assert_array_equal(w, load("painted-classes").styles([7])[0])


def test_each_picture_may_say_something_else(client, load):
    model = load("painted-classes")
    z = model.feeds([9])["z"][0]
    w = model.styles([3], [2], [0.2])[0]
    images = [
        {"seed": 7},
        {"seed": 7, "class": 2, "truncation": 1.5},
        {"z": z.tolist(), "class": "dog"},
        {"w": w.tolist()},
    ]
    answer = post(client, images=images, **{"class": "cat"}, truncation=0.5)
    shown = answer.json()["images"]
    expected = model.generate([7, 7, 9, 3], [0, 2, 1, 2], [0.5, 1.5, 0.5, 0.2])
    made = np.array([decode(base64.b64decode(image["data"])) for image in shown])
    np.testing.assert_array_equal(made, expected)
    said = [{k: v for k, v in i.items() if k not in ("data", "media_type")} for i in shown]
    assert said == [
        {"seed": 7, "class": "cat", "truncation": 0.5},
        {"seed": 7, "class": "night owl", "truncation": 1.5},
        {"z": encode_floats(z), "class": "dog", "truncation": 0.5},
        {"w": encode_floats(w)},
    ]
    assert answer.headers["x-ganymede-seed"] == "7,7,z,w"
    assert answer.headers["x-ganymede-class"] == "0,2,1,"
    # Each file holds what makes it again.
    file = base64.b64decode(shown[2]["data"])
    assert json.loads(Image.open(io.BytesIO(file)).text["ganymede"])["z"] == encode_floats(z)


def test_classes_are_drawn_from_a_distribution(client, load):
    shares = {"cat": 1, "2": 3}
    answer = post(client, seed=0, n=200, **{"class": shares})
    drawn = [image["class"] for image in answer.json()["images"]]
    assert drawn == [CLASSES[draw_class({0: 1.0, 2: 3.0}, seed)] for seed in range(200)]
    assert set(drawn) == {"cat", "night owl"}
    one = post(client, seed=5, **{"class": shares}).json()["images"][0]
    assert one["class"] == drawn[5]


def test_a_blend_is_between_its_classes(client, load):
    model = load("cut")
    body = {"model": "cut", "blend": {"cat": 1, "dog": 3}, "seed": 4, "n": 2}
    answer = post(client, "sample-classes", **body)
    images = answer.json()["images"]
    assert [image["blend"] for image in images] == [{"cat": 0.25, "dog": 0.75}] * 2
    assert answer.headers["x-ganymede-class"] == "0:0.25+1:0.75,0:0.25+1:0.75"
    made = np.array([decode(base64.b64decode(image["data"])) for image in images])
    again = {"model": "cut", "seeds": [4, 5], "blend": {"cat": 0.25, "dog": 0.75}}
    np.testing.assert_array_equal(pixels(post(client, **again, format="npy")), made)
    ends = model.generate([4, 4], [0, 1])
    assert (made[0] != ends[0]).any()
    assert (made[0] != ends[1]).any()
    # Nearer to the one with more weight.
    far, near = (np.abs(made[0].astype(int) - end).mean() for end in ends)
    assert near < far
    # A blend of one class is that class.
    one = post(client, "sample-classes", model="cut", blend={"dog": 5}, seed=4, format="npy")
    np.testing.assert_array_equal(pixels(one)[0], ends[1])
    archive = post(client, "sample-classes", **body, format="zip")
    names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
    assert names == ["cat-0.25_dog-0.75/0-seed-4.png", "cat-0.25_dog-0.75/1-seed-5.png"]


def test_a_model_that_cannot_blend_says_why(client):
    answer = post(client, "sample-classes", blend={"cat": 1, "dog": 1})
    assert_problem(answer, 422, "blend")
    assert "painted-classes cannot blend classes" in answer.json()["detail"]


BAD = {
    "two sources": ({"seed": 1, "z": [[0.0] * Z]}, "z"),
    "seeds and images": ({"seeds": [1], "images": [{"seed": 1}]}, "images"),
    "another count": ({"n": 2, "z": [[0.0] * Z]}, "n"),
    "no latents": ({"z": []}, "z"),
    "a latent of another length": ({"z": [[0.0] * Z, [0.0]]}, "z"),
    "a latent of words": ({"z": [["a"] * Z]}, "z"),
    "a latent too large for float32": ({"z": [[1e300] * Z]}, "z"),
    "a latent that is no base64": ({"z": ["!"]}, "z"),
    "a latent of NaN in base64": ({"z": [encode_floats(np.full(Z, np.nan))]}, "z"),
    "styles without styles": ({"model": "cut", "w": [[0.0] * W]}, "model"),
    "styles and a class": ({"images": [{"w": [0.0] * W, "class": 1}]}, "images.0.class"),
    "a picture of nothing": ({"images": [{"class": 1}]}, "images.0"),
    "a picture with an unknown field": ({"images": [{"sed": 1}]}, "images.0.sed"),
    "class and blend": ({"model": "cut", "class": 1, "blend": {"cat": 1}}, "blend"),
    "no weight": ({"class": {"cat": 0}}, "class"),
    "no weights": ({"class": {}}, "class"),
    "a negative weight": ({"class": {"cat": -1}}, "class"),
    "an unknown class in a distribution": ({"class": {"cow": 1}}, "class"),
    "a class twice": ({"class": {"cat": 1, "0": 1}}, "class"),
    "z of a w": ({"w": [[0.0] * W], "return": ["z"]}, "return"),
    "w without styles to return": ({"model": "cut", "return": ["w"]}, "return"),
    "w beside a picture": ({"return": ["w"], "format": "png"}, "return"),
    "something unknown to return": ({"return": ["x"]}, "return"),
    "too many latents": ({"z": [[0.0] * Z] * 257}, "z"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_problem_that_names_the_field(client, name):
    body, field = BAD[name]
    answer = post(client, **body)
    assert_problem(answer, 422)
    assert any(error["field"].startswith(field) for error in answer.json()["errors"])
    assert len(answer.content) < 10_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"blend": {"cat": 1}, "per_class": 1}, "classes"),
        ({"per_class": 1, "n": 3}, "n"),
        ({"model": "cut", "blend": {"cat": 1, "dog": 2}, "n": 1000}, "n"),
        ({"model": "painted", "blend": {"cat": 1}}, "model"),
    ],
)
def test_bad_samples_of_classes_are_problems(client, body, field):
    answer = post(client, "sample-classes", **body)
    assert_problem(answer, 422, field)
