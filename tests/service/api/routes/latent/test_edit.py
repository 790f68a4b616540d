"""Edits along named directions over HTTP, against the real service."""

import io
import json
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.offline.reproduce import CannotReproduce, reproduce
from service.runtime.latent.editing import MAX_AMOUNT, Edit, move_styles
from service.runtime.latent.sources import decode_floats, encode_floats
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import LAYERS, SIZE, W
from tests.support.latent_models import write_directions, write_latent_models
from tests.support.responses import assert_problem, decode_image, npy_pixels


@pytest.fixture(scope="module")
def movable(drawn_repository):
    return Model(drawn_repository / "movable" / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, **body) -> httpx.Response:
    body = {"model": "movable", "seed": 7, "directions": {"bright": 1.5}} | body
    return client.post("/v1/edit", json={k: v for k, v in body.items() if v is not None})


def moved(model, seeds, edits):
    return move_styles(model.styles(seeds), edits, model.manifest, model.direction_vectors)


def test_moves_a_seed_along_several_directions(client, movable):
    amounts = {"bright": 1.5, "warm": -2.0}
    response = post(client, directions=amounts, format="png")
    expected = movable.synthesize(moved(movable, [7], [Edit(amounts)]))[0]
    np.testing.assert_array_equal(decode_image(response.content), expected)
    assert response.headers["x-ganymede-directions"] == "bright=1.5,warm=-2"
    assert response.headers["x-ganymede-seed"] == "7"
    sha256 = movable.manifest.directions.sha256
    assert response.headers["x-ganymede-directions-sha256"] == sha256
    record = json.loads(Image.open(io.BytesIO(response.content)).info["ganymede"])
    assert record["directions"] == amounts
    assert record["directions_sha256"] == sha256[:16]


def test_json_holds_complete_records_and_moved_latents(client, movable):
    (image,) = post(client, layers="fine", **{"return": ["w"]}).json()["images"]
    assert (image["seed"], image["directions"], image["layers"]) == (7, {"bright": 1.5}, [4, 5])
    expected = moved(movable, [7], [Edit({"bright": 1.5}, {4: 1.0, 5: 1.0})])
    np.testing.assert_array_equal(decode_floats(image["edited_w"]).reshape(LAYERS, W), expected[0])
    body = {"model": "movable", "w": [image["edited_w"]], "format": "npy"}
    again = npy_pixels(client.post("/v1/generate", json=body))
    np.testing.assert_array_equal(again, movable.synthesize(expected))


@pytest.mark.parametrize(
    ("layers", "weights"),
    [
        (3, {3: 1.0}),
        ("middle", {2: 1.0, 3: 1.0}),
        ([0, "fine"], {0: 1.0, 4: 1.0, 5: 1.0}),
        ({"coarse": 0.5}, {0: 0.5, 1: 0.5}),
    ],
)
def test_layers_are_groups_indices_lists_or_weights(client, movable, layers, weights):
    images = npy_pixels(post(client, layers=layers, format="npy"))
    expected = movable.synthesize(moved(movable, [7], [Edit({"bright": 1.5}, weights)]))
    np.testing.assert_array_equal(images, expected)


def test_a_strip_has_a_row_for_each_source_and_a_column_for_each_step(client, movable):
    steps = [-2, 0, 2]
    body = {"seed": None, "seeds": [1, 2], "directions": {"bright": steps, "warm": 1}}
    images = npy_pixels(post(client, format="npy", **body))
    edits = [Edit({"bright": float(step), "warm": 1.0}) for step in steps]
    w = np.concatenate([moved(movable, [seed] * 3, edits) for seed in (1, 2)])
    np.testing.assert_array_equal(images, movable.synthesize(w))
    response = post(client, format="webp", **body)
    grid = decode_image(response.content).reshape(2, SIZE, 3, SIZE, 3).swapaxes(1, 2)
    np.testing.assert_array_equal(grid.reshape(images.shape), images)
    assert response.headers["x-ganymede-directions"] == "bright=-2:0:2,warm=1"


def test_steps_of_two_directions_make_a_grid(client, movable):
    body = {"directions": {"warm": [-1, 1], "bright": [0, 1, 2]}}
    images = npy_pixels(post(client, format="npy", **body))
    edits = [Edit({"warm": a, "bright": b}) for a in (-1.0, 1.0) for b in (0.0, 1.0, 2.0)]
    np.testing.assert_array_equal(images, movable.synthesize(moved(movable, [7] * 6, edits)))
    grid = decode_image(post(client, format="png", **body).content)
    assert grid.shape == (2 * SIZE, 3 * SIZE, 3)
    np.testing.assert_array_equal(grid[SIZE:, :SIZE], images[3])


def test_zip_names_the_steps(client):
    response = post(client, directions={"bright": [-1.5, 2]}, format="zip", **{"return": ["w"]})
    names = zipfile.ZipFile(io.BytesIO(response.content)).namelist()
    stems = ["0-seed-7-bright-1.5", "1-seed-7-bright+2"]
    assert names == [f"{stem}.{kind}" for stem in stems for kind in ("png", "edited_w.npy")]


def test_sources_are_those_of_generate(client, movable):
    w = movable.styles([3])[0]
    by_w = npy_pixels(post(client, seed=None, w=[encode_floats(w)], format="npy"))
    np.testing.assert_array_equal(by_w, npy_pixels(post(client, seed=3, format="npy")))
    two = npy_pixels(post(client, seed=3, n=2, format="npy"))
    np.testing.assert_array_equal(two[:1], by_w)
    random = post(client, seed=None).json()["images"]
    assert len(random) == 1
    assert random[0]["seed"] >= 0
    (image,) = post(
        client, model="movable-classes", directions={"turn": 1}, **{"class": "dog"}
    ).json()["images"]
    assert image["class"] == "dog"


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"directions": {"smile": 1}}, "directions", "available: bright, warm, turn"),
        ({"directions": {"bright": MAX_AMOUNT + 0.5}}, "directions.bright", "less than or equal"),
        ({"directions": {"bright": [1, -50]}}, "directions.bright.1", "greater than or equal"),
        ({"directions": {"bright": []}}, "directions.bright", "at least 1"),
        ({"directions": {"bright": "much"}}, "directions.bright", "number"),
        ({"directions": {}}, "directions", "at least 1"),
        ({"directions": None}, "directions", "required"),
        ({"model": "painted"}, "model", "`ganymede directions painted` finds some"),
        ({"layers": 9}, "layers", "0 to 5"),
        ({"layers": "thin"}, "layers", "coarse"),
        ({"directions": {"turn": 1}, "layers": "fine"}, "layers", "turn is a direction of z"),
        ({"directions": {"turn": 1}, "seed": None, "w": [[0.5] * W]}, "directions", "turn"),
        ({"directions": {"bright": [0.0] * 300}}, "directions", "at most 256 images"),
        (
            {"directions": {"bright": [1, 2], "warm": [1, 2], "turn": [1, 2]}},
            "directions",
            "at most two",
        ),
        ({"n": 2, "directions": {"bright": [1, 2], "warm": [1, 2]}}, "directions", "one source"),
        ({"return": ["z"], "format": "json"}, "return", "is a w"),
        ({"return": ["w"], "format": "png"}, "return", "json or zip"),
        ({"n": 300}, "n", "at most 256"),
        ({"amount": 3}, "amount", "not permitted"),
    ],
)
def test_invalid_fields_are_named(client, body, field, message):
    response = post(client, **body)
    assert_problem(response, 422, field)
    assert message in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"directions": {"bright": 1.25, "turn": -1}},
        {"directions": {"bright": [-1, 1]}, "n": 2, "layers": {"fine": 0.5}},
        {"directions": {"bright": [-1, 1], "warm": [0, 1, 2]}, "layers": "middle"},
        {"model": "movable-classes", "directions": {"turn": [1, 2]}, "class": 2},
    ],
)
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_files_are_reproduced(client, drawn_repository, tmp_path, body, kind):
    path = tmp_path / f"edited.{kind}"
    path.write_bytes(post(client, format=kind, **body).content)
    assert reproduce(path, drawn_repository).identical


def test_reproduce_reports_changed_directions(client, tmp_path):
    path = tmp_path / "edited.png"
    path.write_bytes(post(client, format="png").content)
    write_latent_models(tmp_path / "models")
    assert reproduce(path, tmp_path / "models").identical
    write_directions(tmp_path / "models" / "movable" / "1", seed=99)
    with pytest.raises(CannotReproduce, match=r"made with the directions .* of movable"):
        reproduce(path, tmp_path / "models")


def test_models_list_directions_with_figures_and_strips(client):
    card = client.get("/v1/models/movable").json()
    bright, _, turn = card["directions"]
    assert (bright["name"], bright["space"], bright["layers"]) == ("bright", "w", [0, 1])
    assert bright["figures"]["effect"] == 0.5
    assert (turn["name"], turn["layers"]) == ("turn", [])
    strip = client.get(bright["strip"])
    assert Image.open(io.BytesIO(strip.content)).size == (5 * SIZE, SIZE)
    headers = {"if-none-match": strip.headers["etag"]}
    assert client.get(bright["strip"], headers=headers).status_code == 304
    assert card["encoder"]["passes"] == 5
    assert "directions" not in client.get("/v1/models/painted").json()
    for name in ("movable", "painted"):
        assert_problem(client.get(f"/v1/models/{name}/directions/smile.webp"), 404)
