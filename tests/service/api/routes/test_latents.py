"""Latents, styles, class blends and class distributions over HTTP, against the real service."""

import base64
import io
import json
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.runtime.latent.sources import decode_floats, draw_class, encode_floats
from tests.support.drawn_models import CLASSES, LAYERS, W, Z
from tests.support.responses import assert_problem, decode_image, npy_pixels


def post(client, route="generate", **body) -> httpx.Response:
    return client.post(f"/v1/{route}", json={"model": "painted-classes"} | body)


def test_latent_gives_image_of_its_seed(client, load):
    model = load("painted-classes")
    z = model.feeds([7, 8])["z"]
    images = npy_pixels(
        post(client, z=[z[0].tolist(), encode_floats(z[1])], **{"class": "dog"}, format="npy")
    )
    np.testing.assert_array_equal(images, model.generate([7, 8], [1, 1]))


def test_styles_give_image_of_their_seed(client, load):
    model = load("painted-classes")
    w = model.styles([7, 8])
    styles = [w[0].tolist(), encode_floats(w[1]), w[0, 0].tolist()]
    images = npy_pixels(post(client, w=styles, format="npy"))
    expected = model.synthesize(np.stack([w[0], w[1], np.broadcast_to(w[0, 0], w[0].shape)]))
    np.testing.assert_array_equal(images, expected)


def test_returned_latents_reproduce_images(client):
    body = {"seed": 7, "n": 2, "class": "dog", "truncation": 0.5, "return": ["w", "z"]}
    response = post(client, **body)
    images = response.json()["images"]
    first = np.array([decode_image(base64.b64decode(image["data"])) for image in images])
    assert decode_floats(images[0]["z"]).shape == (Z,)
    assert decode_floats(images[0]["w"]).shape == (LAYERS * W,)
    by_z = {"z": [image["z"] for image in images], "class": "dog", "truncation": 0.5}
    np.testing.assert_array_equal(npy_pixels(post(client, **by_z, format="npy")), first)
    by_w = {"w": [image["w"] for image in images]}
    np.testing.assert_array_equal(npy_pixels(post(client, **by_w, format="npy")), first)
    # Returning them does not change the images.
    del body["return"]
    np.testing.assert_array_equal(npy_pixels(post(client, **body, format="npy")), first)


def test_zip_contains_returned_latents_as_npy(client, load):
    response = post(client, seed=7, **{"return": ["w"]}, format="zip")
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.namelist() == ["0-seed-7.png", "0-seed-7.w.npy"]
    w = np.load(io.BytesIO(archive.read("0-seed-7.w.npy")))
    np.testing.assert_array_equal(w, load("painted-classes").styles([7])[0])


def test_images_override_request_parameters(client, load):
    model = load("painted-classes")
    z = model.feeds([9])["z"][0]
    w = model.styles([3], [2], [0.2])[0]
    images = [
        {"seed": 7},
        {"seed": 7, "class": 2, "truncation": 1.5},
        {"z": z.tolist(), "class": "dog"},
        {"w": w.tolist()},
    ]
    response = post(client, images=images, **{"class": "cat"}, truncation=0.5)
    outputs = response.json()["images"]
    expected = model.generate([7, 7, 9, 3], [0, 2, 1, 2], [0.5, 1.5, 0.5, 0.2])
    pixels = np.array([decode_image(base64.b64decode(image["data"])) for image in outputs])
    np.testing.assert_array_equal(pixels, expected)
    parameters = [{k: v for k, v in i.items() if k not in ("data", "media_type")} for i in outputs]
    assert parameters == [
        {"seed": 7, "class": "cat", "truncation": 0.5},
        {"seed": 7, "class": "night owl", "truncation": 1.5},
        {"z": encode_floats(z), "class": "dog", "truncation": 0.5},
        {"w": encode_floats(w)},
    ]
    assert response.headers["x-ganymede-seed"] == "7,7,z,w"
    assert response.headers["x-ganymede-class"] == "0,2,1,"
    # Each file contains the parameters that reproduce it.
    file = base64.b64decode(outputs[2]["data"])
    assert json.loads(Image.open(io.BytesIO(file)).text["ganymede"])["z"] == encode_floats(z)


def test_draws_classes_from_distribution(client, load):
    weights = {"cat": 1, "2": 3}
    response = post(client, seed=0, n=200, **{"class": weights})
    classes = [image["class"] for image in response.json()["images"]]
    assert classes == [CLASSES[draw_class({0: 1.0, 2: 3.0}, seed)] for seed in range(200)]
    assert set(classes) == {"cat", "night owl"}
    single = post(client, seed=5, **{"class": weights}).json()["images"][0]
    assert single["class"] == classes[5]


def test_blend_is_between_its_classes(client, load):
    model = load("cut")
    body = {"model": "cut", "blend": {"cat": 1, "dog": 3}, "seed": 4, "n": 2}
    response = post(client, "sample-classes", **body)
    images = response.json()["images"]
    assert [image["blend"] for image in images] == [{"cat": 0.25, "dog": 0.75}] * 2
    assert response.headers["x-ganymede-class"] == "0:0.25+1:0.75,0:0.25+1:0.75"
    blended = np.array([decode_image(base64.b64decode(image["data"])) for image in images])
    normalized = {"model": "cut", "seeds": [4, 5], "blend": {"cat": 0.25, "dog": 0.75}}
    np.testing.assert_array_equal(npy_pixels(post(client, **normalized, format="npy")), blended)
    ends = model.generate([4, 4], [0, 1])
    assert (blended[0] != ends[0]).any()
    assert (blended[0] != ends[1]).any()
    # The blend is closer to the class with the larger weight.
    far, near = (np.abs(blended[0].astype(int) - end).mean() for end in ends)
    assert near < far
    # A blend of a single class equals that class.
    single = post(client, "sample-classes", model="cut", blend={"dog": 5}, seed=4, format="npy")
    np.testing.assert_array_equal(npy_pixels(single)[0], ends[1])
    archive = post(client, "sample-classes", **body, format="zip")
    names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
    assert names == ["cat-0.25_dog-0.75/0-seed-4.png", "cat-0.25_dog-0.75/1-seed-5.png"]


def test_explains_why_model_cannot_blend(client):
    response = post(client, "sample-classes", blend={"cat": 1, "dog": 1})
    assert_problem(response, 422, "blend")
    assert "painted-classes cannot blend classes" in response.json()["detail"]


BAD = {
    "two sources": ({"seed": 1, "z": [[0.0] * Z]}, "z"),
    "seeds and images": ({"seeds": [1], "images": [{"seed": 1}]}, "images"),
    "n differs from number of latents": ({"n": 2, "z": [[0.0] * Z]}, "n"),
    "no latents": ({"z": []}, "z"),
    "latent of wrong length": ({"z": [[0.0] * Z, [0.0]]}, "z"),
    "latent of strings": ({"z": [["a"] * Z]}, "z"),
    "latent exceeds float32": ({"z": [[1e300] * Z]}, "z"),
    "latent is not base64": ({"z": ["!"]}, "z"),
    "base64 latent with NaN": ({"z": [encode_floats(np.full(Z, np.nan))]}, "z"),
    "w for a model without styles": ({"model": "cut", "w": [[0.0] * W]}, "model"),
    "w with a class": ({"images": [{"w": [0.0] * W, "class": 1}]}, "images.0.class"),
    "image without a source": ({"images": [{"class": 1}]}, "images.0"),
    "image with an unknown field": ({"images": [{"sed": 1}]}, "images.0.sed"),
    "class with blend": ({"model": "cut", "class": 1, "blend": {"cat": 1}}, "blend"),
    "zero weight": ({"class": {"cat": 0}}, "class"),
    "no weights": ({"class": {}}, "class"),
    "negative weight": ({"class": {"cat": -1}}, "class"),
    "unknown class in a distribution": ({"class": {"cow": 1}}, "class"),
    "duplicate class": ({"class": {"cat": 1, "0": 1}}, "class"),
    "return z of a w": ({"w": [[0.0] * W], "return": ["z"]}, "return"),
    "return w of a model without styles": ({"model": "cut", "return": ["w"]}, "return"),
    "return w with an image file": ({"return": ["w"], "format": "png"}, "return"),
    "unknown value to return": ({"return": ["x"]}, "return"),
    "too many latents": ({"z": [[0.0] * Z] * 257}, "z"),
}


@pytest.mark.parametrize("name", BAD)
def test_problem_names_invalid_field(client, name):
    body, field = BAD[name]
    response = post(client, **body)
    assert_problem(response, 422)
    assert any(error["field"].startswith(field) for error in response.json()["errors"])
    assert len(response.content) < 10_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"blend": {"cat": 1}, "per_class": 1}, "classes"),
        ({"per_class": 1, "n": 3}, "n"),
        ({"model": "cut", "blend": {"cat": 1, "dog": 2}, "n": 1000}, "n"),
        ({"model": "painted", "blend": {"cat": 1}}, "model"),
    ],
)
def test_sample_classes_rejects_invalid_parameters(client, body, field):
    response = post(client, "sample-classes", **body)
    assert_problem(response, 422, field)
