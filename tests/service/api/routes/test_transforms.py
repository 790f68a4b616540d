"""Geometric transforms of generated images over HTTP, against the real service."""

import contextlib
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from service.offline.reproduce import reproduce
from service.runtime.latent.transforms import identity_transforms, motion_transform
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import W, write_painted, write_transformable
from tests.support.responses import assert_problem, npy_pixels
from tests.support.servers import serving

ROTATED = [[0.8, -0.6, 0.25], [0.6, 0.8, -0.125], [0, 0, 1]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transforms")
    write_transformable(folder / "moved" / "1")
    write_painted(folder / "painted" / "1", ["z"])
    return folder


@pytest.fixture(scope="module")
def client(models):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(models))
        yield stack.enter_context(server.client())


@pytest.fixture(scope="module")
def model(models):
    return Model(models / "moved" / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, route="generate", **body) -> httpx.Response:
    return client.post(f"/v1/{route}", json={"model": "moved", "format": "npy"} | body)


def generated(model, seeds, *transforms):
    """Return the images of `seeds`, with one transform each, without the service."""
    stacked = np.stack([np.asarray(each, np.float32) for each in transforms])
    return model.synthesize(model.styles(seeds), stacked)


def test_applies_matrix_and_motion(client, model):
    np.testing.assert_array_equal(
        npy_pixels(post(client, seed=7, n=2, transform=ROTATED)),
        generated(model, [7, 8], ROTATED, ROTATED),
    )
    motion = {"translate": [0.1, -0.2], "rotate": 30, "scale": 1.5}
    np.testing.assert_array_equal(
        npy_pixels(post(client, seed=7, transform=motion)),
        generated(model, [7], motion_transform([0.1, -0.2], 30, 1.5)),
    )


def test_default_is_identity(client, model):
    default = npy_pixels(post(client, seed=7))
    np.testing.assert_array_equal(default, generated(model, [7], identity_transforms(1)[0]))
    np.testing.assert_array_equal(default, npy_pixels(post(client, seed=7, transform={})))
    assert (default != npy_pixels(post(client, seed=7, transform=ROTATED))).any()


def test_transform_per_image_and_for_w(client, model):
    images = [{"seed": 3, "transform": {"rotate": 90}}, {"seed": 4}, {"w": [0.5] * W}]
    w = np.concatenate([model.styles([3, 4]), np.full((1, 6, W), 0.5, np.float32)])
    transforms = np.stack([motion_transform([0, 0], 90, 1), *np.asarray([ROTATED] * 2, np.float32)])
    np.testing.assert_array_equal(
        npy_pixels(post(client, images=images, transform=ROTATED)), model.synthesize(w, transforms)
    )
    returned = post(client, seed=3, transform=ROTATED, **{"return": ["w"], "format": "json"})
    assert returned.json()["images"][0]["transform"][0] == pytest.approx(ROTATED[0])


def test_transformed_file_is_reproducible(client, models, tmp_path):
    for name, body in (("seed", {"seed": 7}), ("w", {"w": [[0.25] * W]})):
        response = post(client, transform={"rotate": 12.5}, **{"format": "png"} | body)
        (tmp_path / f"{name}.png").write_bytes(response.content)
        assert "transform" in Image.open(io.BytesIO(response.content)).text["ganymede"]
        assert reproduce(tmp_path / f"{name}.png", models).identical


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "painted", "transform": ROTATED}, "transform"),
        ({"transform": [[1, 0], [0, 1]]}, "transform"),
        ({"transform": [[1, 0, 0], [0, 1, 0], [0, 1, 1]]}, "transform"),
        ({"transform": {"translate": [1e6, 0]}}, "transform"),
        ({"transform": {"scale": 0}}, "transform"),
        ({"images": [{"seed": 1, "transform": {"turn": 3}}]}, "images"),
    ],
)
def test_rejects_invalid_transform(client, body, field):
    response = post(client, **body)
    assert_problem(response, 422)
    assert response.json()["errors"][0]["field"].startswith(field)


def test_mixing_and_interpolation_reject_transforms(client):
    mix = {"rows": [1], "columns": [2]}
    assert len(npy_pixels(post(client, "mix-styles", **mix))) == 1
    transformed = mix | {"rows": [{"seed": 1, "transform": {}}]}
    assert_problem(post(client, "mix-styles", **transformed), 422, "rows.0.transform")
    assert len(npy_pixels(post(client, "interpolate", sources=[1, 2], frames=3))) == 3


def test_model_describes_transform_input(client, model):
    cards = {card["id"]: card["transform"] for card in client.get("/v1/models").json()["data"]}
    assert cards == {"moved": True, "painted": False}
    inputs = client.get("/v2/models/moved/config").json()["input"]
    assert inputs[-1] == {
        "name": "transform",
        "data_type": "TYPE_FP32",
        "dims": [3, 3],
        "optional": True,
    }
    z = model.feeds([7])["z"]
    inputs_without = [
        {"name": "z", "datatype": "FP32", "shape": [1, 16], "data": z.ravel().tolist()}
    ]
    tensor = {"name": "transform", "datatype": "FP32", "shape": [1, 3, 3]}
    tensor["data"] = np.ravel(ROTATED).tolist()
    for inputs, transform in ((inputs_without, np.eye(3)), ([*inputs_without, tensor], ROTATED)):
        response = client.post("/v2/models/moved/infer", json={"inputs": inputs}).json()
        data = np.array(response["outputs"][0]["data"]).reshape(
            generated(model, [7], np.eye(3)).shape
        )
        np.testing.assert_array_equal(data, generated(model, [7], transform))
