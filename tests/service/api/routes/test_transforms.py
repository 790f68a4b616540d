"""Pictures that are moved and turned, over HTTP, against the real service."""

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
from tests.service.api.routes.test_generate import assert_problem
from tests.support.drawn_models import W, write_moved, write_painted
from tests.support.servers import serving

TURNED = [[0.8, -0.6, 0.25], [0.6, 0.8, -0.125], [0, 0, 1]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moved")
    write_moved(folder / "moved" / "1")
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


def pixels(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def made(model, seeds, *transforms):
    moved = np.stack([np.asarray(each, np.float32) for each in transforms])
    return model.synthesize(model.styles(seeds), moved)


def test_a_picture_is_where_the_transform_says(client, model):
    np.testing.assert_array_equal(
        pixels(post(client, seed=7, n=2, transform=TURNED)), made(model, [7, 8], TURNED, TURNED)
    )
    said = {"translate": [0.1, -0.2], "rotate": 30, "scale": 1.5}
    np.testing.assert_array_equal(
        pixels(post(client, seed=7, transform=said)),
        made(model, [7], motion_transform([0.1, -0.2], 30, 1.5)),
    )


def test_without_one_it_lies_as_by_the_identity(client, model):
    alone = pixels(post(client, seed=7))
    np.testing.assert_array_equal(alone, made(model, [7], identity_transforms(1)[0]))
    np.testing.assert_array_equal(alone, pixels(post(client, seed=7, transform={})))
    assert (alone != pixels(post(client, seed=7, transform=TURNED))).any()


def test_each_picture_may_have_its_own_and_a_w_too(client, model):
    images = [{"seed": 3, "transform": {"rotate": 90}}, {"seed": 4}, {"w": [0.5] * W}]
    w = np.concatenate([model.styles([3, 4]), np.full((1, 6, W), 0.5, np.float32)])
    moved = np.stack([motion_transform([0, 0], 90, 1), *np.asarray([TURNED] * 2, np.float32)])
    np.testing.assert_array_equal(
        pixels(post(client, images=images, transform=TURNED)), model.synthesize(w, moved)
    )
    returned = post(client, seed=3, transform=TURNED, **{"return": ["w"], "format": "json"})
    assert returned.json()["images"][0]["transform"][0] == pytest.approx(TURNED[0])


def test_a_file_that_was_moved_can_be_made_again_from_itself(client, models, tmp_path):
    for name, body in (("seed", {"seed": 7}), ("w", {"w": [[0.25] * W]})):
        answer = post(client, transform={"rotate": 12.5}, **{"format": "png"} | body)
        (tmp_path / f"{name}.png").write_bytes(answer.content)
        assert "transform" in Image.open(io.BytesIO(answer.content)).text["ganymede"]
        assert reproduce(tmp_path / f"{name}.png", models).identical


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "painted", "transform": TURNED}, "transform"),
        ({"transform": [[1, 0], [0, 1]]}, "transform"),
        ({"transform": [[1, 0, 0], [0, 1, 0], [0, 1, 1]]}, "transform"),
        ({"transform": {"translate": [1e6, 0]}}, "transform"),
        ({"transform": {"scale": 0}}, "transform"),
        ({"images": [{"seed": 1, "transform": {"turn": 3}}]}, "images"),
    ],
)
def test_one_that_cannot_be_is_refused_by_its_name(client, body, field):
    refused = post(client, **body)
    assert_problem(refused, 422)
    assert refused.json()["errors"][0]["field"].startswith(field)


def test_mixes_and_walks_take_the_model_and_no_transform(client):
    mixed = {"rows": [1], "columns": [2]}
    assert len(pixels(post(client, "mix-styles", **mixed))) == 1
    moved = mixed | {"rows": [{"seed": 1, "transform": {}}]}
    assert_problem(post(client, "mix-styles", **moved), 422, "rows.0.transform")
    assert len(pixels(post(client, "interpolate", sources=[1, 2], frames=3))) == 3


def test_the_model_says_that_it_takes_one(client, model):
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
    tensors = [{"name": "z", "datatype": "FP32", "shape": [1, 16], "data": z.ravel().tolist()}]
    moved = {"name": "transform", "datatype": "FP32", "shape": [1, 3, 3]}
    moved["data"] = np.ravel(TURNED).tolist()
    for inputs, transform in ((tensors, np.eye(3)), ([*tensors, moved], TURNED)):
        answer = client.post("/v2/models/moved/infer", json={"inputs": inputs}).json()
        data = np.array(answer["outputs"][0]["data"]).reshape(made(model, [7], np.eye(3)).shape)
        np.testing.assert_array_equal(data, made(model, [7], transform))
