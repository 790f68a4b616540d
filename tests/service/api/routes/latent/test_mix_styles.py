"""Style mixing over HTTP, against the real service."""

import base64
import io
import json
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.runtime.latent import seeds
from service.runtime.latent.sources import encode_floats
from service.runtime.latent.style_mixing import mix_styles
from tests.support.drawn_models import BAND, LAYERS, SIZE
from tests.support.responses import assert_problem, decode_image, npy_pixels
from tests.support.servers import serving

ROOT = Path(__file__).parents[5]


def post(client, accept=None, **body) -> httpx.Response:
    headers = {"accept": accept} if accept else {}
    body = {"model": "painted", "rows": [1, 2], "columns": [5, 6, 7]} | body
    return client.post("/v1/mix-styles", json=body, headers=headers)


def test_rejects_jpeg_without_room_for_provenance(client):
    body = {"rows": [{"w": [0.5] * 10}] * 255, "columns": [1]}
    response = post(client, format="jpeg", **body)
    assert_problem(response, 422, "format")
    image = Image.open(io.BytesIO(post(client, format="webp", **body).content))
    assert len(json.loads(image.getexif()[0x010E].removeprefix("ganymede"))["rows"]) == 255


COARSE, FINE = {0: 1.0, 1: 1.0}, {4: 1.0, 5: 1.0}


def test_mixes_every_row_with_every_column(client, load):
    model = load("painted")
    mixed = mix_styles(model.styles([1, 2]), model.styles([5, 6, 7]), COARSE)
    images = npy_pixels(post(client, layers="coarse", format="npy"))
    np.testing.assert_array_equal(images, model.synthesize(mixed))
    np.testing.assert_array_equal(npy_pixels(post(client, format="npy")), images)


@given(
    rows=st.lists(st.integers(0, 99), min_size=1, max_size=4),
    columns=st.lists(st.integers(0, 99), min_size=1, max_size=4),
    layers=st.lists(st.integers(0, LAYERS - 1), min_size=1, max_size=8),
)
@settings(max_examples=20, deadline=None)
def test_layers_come_from_columns_and_others_from_rows(drawn_server, load, rows, columns, layers):
    model = load("painted")
    with drawn_server.client() as client:
        body = {"rows": rows, "columns": columns, "layers": layers, "format": "npy"}
        images = npy_pixels(post(client, **body))
    mixed = images.reshape(len(rows), len(columns), LAYERS, BAND, SIZE, 3)
    row_images = model.generate(rows).reshape(-1, LAYERS, BAND, SIZE, 3)
    column_images = model.generate(columns).reshape(-1, LAYERS, BAND, SIZE, 3)
    for layer in range(LAYERS):
        expected = column_images[None, :, layer] if layer in layers else row_images[:, None, layer]
        assert (mixed[:, :, layer] == expected).all()


def test_layers_as_groups_or_indices(client):
    def layers(option):
        response = post(client, layers=option)
        (indices,) = {tuple(image["layers"]) for image in response.json()["images"]}
        assert response.headers["x-ganymede-layers"] == ",".join(map(str, indices))
        return indices

    assert layers("coarse") == (0, 1)
    assert layers("middle") == (2, 3)
    assert layers(["fine", "coarse"]) == (0, 1, 4, 5)
    assert layers([5, 0, 5]) == (0, 5)
    assert layers(["middle", 3, 4]) == (2, 3, 4)


def test_images_contain_row_column_and_layers(client, load):
    body = {"model": "painted-classes", "layers": "fine", "truncation": 0.5}
    columns = [{"seed": 5, "class": "cat"}, {"seed": 6, "class": 2}]
    columns += [{"seed": 7, "class": "night owl", "truncation": 0.25}]
    body |= {"class": "dog", "columns": columns}
    response = post(client, **body)
    images = response.json()["images"]
    assert [(image["row"]["seed"], image["column"]["seed"]) for image in images] == [
        (row, column) for row in (1, 2) for column in (5, 6, 7)
    ]
    last = images[-1]
    file = base64.b64decode(last.pop("data"))
    parameters = {
        "row": {"seed": 2, "class": "dog", "truncation": 0.5},
        "column": {"seed": 7, "class": "night owl", "truncation": 0.25},
        "layers": [4, 5],
    }
    assert last == parameters | {"media_type": "image/png"}
    provenance = json.loads(Image.open(io.BytesIO(file)).text["ganymede"])
    identity = {key: response.json()[key] for key in ("model", "version", "digest")}
    assert provenance == identity | parameters
    assert response.headers["x-ganymede-row-classes"] == "1,1"
    assert response.headers["x-ganymede-column-classes"] == "0,2,2"
    # This is enough to reproduce the image.
    model = load("painted-classes")
    w = mix_styles(model.styles([2], [1], [0.5]), model.styles([7], [2], [0.25]), FINE)
    np.testing.assert_array_equal(decode_image(file), model.synthesize(w)[0])


def test_default_class_follows_from_seed(client, load):
    model = load("painted-classes")
    images = npy_pixels(post(client, model="painted-classes", format="npy"))
    expected = model.synthesize(mix_styles(model.styles([1, 2]), model.styles([5, 6, 7]), COARSE))
    np.testing.assert_array_equal(images, expected)
    # The same seed with two classes is two sources.
    rows = [{"seed": 1, "class": 0}, {"seed": 1, "class": 1}]
    body = {"rows": rows, "columns": [1], "class": 2, "format": "npy"}
    images = npy_pixels(post(client, model="painted-classes", **body))
    expected = mix_styles(model.styles([1, 1], [0, 1]), model.styles([1], [2]), COARSE)
    np.testing.assert_array_equal(images, model.synthesize(expected))


@pytest.mark.parametrize(
    ("output_format", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")]
)
def test_image_is_grid_with_sources(client, load, output_format, kind):
    response = post(client, rows=[1, 5], columns=[5, 6, 6], format=output_format)
    assert response.headers["content-type"] == f"image/{output_format}"
    assert Image.open(io.BytesIO(response.content)).format == kind
    if output_format == "jpeg":
        return
    model = load("painted")
    tiles = decode_image(response.content).reshape(3, SIZE, 4, SIZE, 3).swapaxes(1, 2)
    assert (tiles[0, 0] == 255).all()
    np.testing.assert_array_equal(tiles[0, 1:], model.generate([5, 6, 6]))
    np.testing.assert_array_equal(tiles[1:, 0], model.generate([1, 5]))
    mixed = npy_pixels(post(client, rows=[1, 5], columns=[5, 6, 6], format="npy"))
    np.testing.assert_array_equal(tiles[1:, 1:].reshape(mixed.shape), mixed)


def test_grid_contains_provenance(client):
    body = {"model": "painted-classes", "format": "png", "class": "cat", "truncation": 1}
    response = post(client, **body)
    provenance = json.loads(Image.open(io.BytesIO(response.content)).text["ganymede"])
    assert provenance == {
        "model": "painted-classes",
        "version": "1",
        "digest": response.headers["x-ganymede-digest"],
        "rows": [{"seed": seed, "class": "cat", "truncation": 1.0} for seed in (1, 2)],
        "columns": [{"seed": seed, "class": "cat", "truncation": 1.0} for seed in (5, 6, 7)],
        "layers": [0, 1],
    }
    assert response.headers["x-ganymede-rows"] == "1,2"
    assert response.headers["x-ganymede-columns"] == "5,6,7"


def test_layers_with_weights(client, load):
    model = load("painted")
    response = post(client, layers={"coarse": 0.25, "3": 1}, rows=[1], columns=[5], format="json")
    (image,) = response.json()["images"]
    assert image["layers"] == {"0": 0.25, "1": 0.25, "3": 1.0}
    assert response.headers["x-ganymede-layers"] == "0:0.25,1:0.25,3"
    w, other = model.styles([1]), model.styles([5])
    w[:, :2] += np.float32(0.25) * (other - w)[:, :2]
    w[:, 3] = other[:, 3]
    mixed = decode_image(base64.b64decode(image["data"]))
    assert np.abs(mixed.astype(int) - model.synthesize(w)[0]).max() <= 1


def test_accepts_latents_and_styles_as_sources(client, load):
    model = load("painted")
    z = seeds.draw([1], 16)[0]
    w = model.styles([5])[0]
    rows = [{"z": z.tolist()}, {"z": encode_floats(z)}, 1]
    columns = [{"w": w.tolist()}, {"w": encode_floats(w)}, {"w": w[0].tolist()}, 5]
    response = post(client, rows=rows, columns=columns, format="npy")
    images = npy_pixels(response).reshape(3, 4, SIZE, SIZE, 3)
    assert (images == images[0, 0]).all()
    assert response.headers["x-ganymede-rows"] == "z,z,1"
    assert response.headers["x-ganymede-columns"] == "w,w,w,5"
    np.testing.assert_array_equal(images[0, 0], npy_pixels(post(client, rows=[1], format="npy"))[0])


def test_single_pair_is_image_without_grid(client):
    response = post(client, "image/png", rows=[1], columns=[5])
    mixed = npy_pixels(post(client, rows=[1], columns=[5], format="npy"))
    np.testing.assert_array_equal(decode_image(response.content), mixed[0])
    assert json.loads(Image.open(io.BytesIO(response.content)).text["ganymede"])["row"] == {
        "seed": 1
    }


def test_maps_each_source_once(client):
    def rows_run() -> float:
        text = client.get("/metrics").text
        match = re.search(
            r'^ganymede_batch_rows_sum\{model="painted-classes"\} (.*)$', text, re.MULTILINE
        )
        return float(match.group(1)) if match else 0.0

    # No other test uses these seeds, so their styles are not in the cache yet.
    a, b = 870_001, 870_002
    before = rows_run()
    response = post(client, model="painted-classes", rows=[a, a, b], columns=[b, a], format="npy")
    assert len(npy_pixels(response)) == 6
    # Two sources are mapped and six images synthesized. The grid also shows the two sources, whose
    # styles are cached by then.
    assert rows_run() == before + 2 + 6
    post(client, model="painted-classes", rows=[a, a, b], columns=[b, a], format="png")
    assert rows_run() == before + 2 + 6 + 2 + 6
    post(client, model="painted-classes", rows=[a], columns=[b], truncation=0.1, format="npy")
    assert rows_run() == before + 2 + 6 + 2 + 6 + 2 + 1


def test_zip_file_names_contain_sources(client):
    archive = zipfile.ZipFile(io.BytesIO(post(client, format="zip", rows=[1]).content))
    names = ["0-row-1-column-5.png", "1-row-1-column-6.png", "2-row-1-column-7.png"]
    assert archive.namelist() == names
    images = [decode_image(archive.read(name)) for name in names]
    np.testing.assert_array_equal(images, npy_pixels(post(client, format="npy", rows=[1])))


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("image/webp", "image/webp"),
        ("application/zip", "application/zip"),
        ("application/x-npy", "application/x-npy"),
    ],
)
def test_negotiates_format(client, accept, media_type):
    assert post(client, accept).headers["content-type"] == media_type


@pytest.mark.parametrize("output_format", ["png", "npy", "json"])
def test_bytes_do_not_depend_on_concurrent_requests(client, output_format):
    def content_of(seed):
        return post(client, rows=[seed, 1], columns=[5, seed + 1], format=output_format).content

    alone = {seed: content_of(seed) for seed in range(0, 32, 9)}
    with ThreadPoolExecutor(32) as pool:
        concurrent = list(pool.map(content_of, range(32)))
    assert len(set(concurrent)) == 32
    for seed, content in alone.items():
        assert concurrent[seed] == content


def test_generate_and_image_url_with_styles(client, load):
    model = load("painted-classes")
    body = {"model": "painted-classes", "seeds": [7, 8], "class": ["dog", "cat"], "format": "npy"}
    response = client.post("/v1/generate", json=body)
    np.testing.assert_array_equal(npy_pixels(response), model.generate([7, 8], [1, 0]))
    response = client.get("/v1/models/painted-classes/images/7.png?class=dog")
    np.testing.assert_array_equal(decode_image(response.content), model.generate([7], [1])[0])


def test_model_shows_styles(client):
    cards = {card["name"]: card for card in client.get("/v1/models").json()["data"]}
    styles = cards["painted"]["styles"]
    assert [layer["group"] for layer in styles["layers"]][::2] == ["coarse", "middle", "fine"]
    assert styles["layers"][0]["resolution"] < styles["layers"][-1]["resolution"]
    assert "styles" not in cards["cut"]


def test_explains_why_model_has_no_styles(client):
    response = post(client, model="cut")
    assert_problem(response, 422, "model")
    assert "cut has no styles to mix: its generator maps a latent" in response.json()["detail"]


BAD = {
    "no rows": ({"rows": []}, "rows"),
    "no columns": ({"columns": []}, "columns"),
    "rows as a number": ({"rows": 1}, "rows"),
    "invalid seed": ({"columns": [1, 2**32]}, "columns.1"),
    "too many images": ({"rows": list(range(100)), "columns": [1, 2, 3]}, "rows"),
    "a million seeds": ({"rows": [1] * 1_000_000}, "rows"),
    "an unknown group": ({"layers": "tiny"}, "layers"),
    "unknown group in a list": ({"layers": ["coarse", "tiny"]}, "layers"),
    "layer after the last": ({"layers": [LAYERS]}, "layers"),
    "negative layer": ({"layers": [-1]}, "layers"),
    "layer as a boolean": ({"layers": [True]}, "layers"),
    "no layers": ({"layers": []}, "layers"),
    "layers are null": ({"layers": None}, "layers"),
    "class for a model without classes": ({"class": "cat"}, "class"),
    "class of a source for a model without classes": (
        {"rows": [{"seed": 1, "class": 0}]},
        "rows.0.class",
    ),
    "unknown class of a source": (
        {"model": "painted-classes", "columns": [5, {"seed": 1, "class": "cow"}]},
        "columns.1.class",
    ),
    "empty source": ({"rows": [{}]}, "rows.0"),
    "source with seed and z": ({"rows": [{"seed": 1, "z": [0.0] * 16}]}, "rows.0"),
    "z of wrong length": ({"rows": [{"z": [0.0] * 15}]}, "rows.0.z"),
    "z not finite in float32": ({"rows": [{"z": [1e39] * 16}]}, "rows.0.z"),
    "w of wrong length": ({"rows": [{"w": [0.0] * 11}]}, "rows.0.w"),
    "w with unequal rows": ({"rows": [{"w": [[0.0], [0.0, 1.0]]}]}, "rows.0.w"),
    "w is not base64": ({"rows": [{"w": "?"}]}, "rows.0.w"),
    "w with a truncation": ({"rows": [{"w": [0.0] * 10, "truncation": 1}]}, "rows.0.truncation"),
    "blend for a class index": (
        {"model": "painted-classes", "rows": [{"seed": 1, "blend": {"cat": 1, "dog": 1}}]},
        "rows.0.blend",
    ),
    "weight above 1": ({"layers": {"0": 1.5}}, "layers"),
    "weight of an unknown group": ({"layers": {"tiny": 0.5}}, "layers"),
    "truncation for a model without it": ({"truncation": 0.5}, "truncation"),
    "truncation out of range": ({"model": "painted-classes", "truncation": 2}, "truncation"),
    "truncation as a list": ({"model": "painted-classes", "truncation": [1]}, "truncation"),
    "an unknown field": ({"psi": 1}, "psi"),
    "an unknown format": ({"format": "gif"}, "format"),
}


@pytest.mark.parametrize("name", BAD)
def test_problem_names_invalid_field(client, name):
    body, field = BAD[name]
    response = post(client, **body)
    assert_problem(response, 422)
    assert any(error["field"].startswith(field) for error in response.json()["errors"])
    assert len(response.content) < 10_000


def test_rejects_unsupported_accept(client):
    assert_problem(post(client, "image/bmp"), 406)


def test_documents_and_enforces_max_images(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["MixStylesRequest"]
    maximum = schema["properties"]["rows"]["maxItems"]
    response = post(client, rows=list(range(maximum)), columns=[1], format="png")
    assert decode_image(response.content).shape == ((maximum + 1) * SIZE, 2 * SIZE, 3)
    response = post(client, rows=list(range(maximum // 2 + 1)), columns=[1, 2])
    assert_problem(response, 422, "rows")
    assert str(maximum) in response.json()["detail"]


def test_rejects_grid_too_large_for_format_or_queue(drawn_repository):
    environment = {"GANYMEDE_MAX_IMAGES": "1000", "GANYMEDE_QUEUE_PIXELS": str(950 * SIZE * SIZE)}
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        response = post(client, rows=list(range(700)), columns=[1], format="webp")
        assert_problem(response, 422, "format")
        assert "16383 per side" in response.json()["detail"]
        response = post(client, rows=list(range(1000)), columns=[1], format="npy")
        assert_problem(response, 422, "rows")
        assert "larger than the queue" in response.json()["detail"]
        assert (
            len(npy_pixels(post(client, rows=list(range(900)), columns=[1], format="npy"))) == 900
        )
        # Rejected requests leave nothing in the queue.
        assert "ganymede_queue_pixels 0.0" in client.get("/metrics").text


@pytest.mark.slow
def test_missed_deadline_gives_504_and_empties_queue(drawn_repository):
    environment = {"GANYMEDE_DEADLINE_S": "0.0001"}
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        response = post(client, rows=list(range(16)), columns=list(range(16)))
        assert_problem(response, 504)
        started = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - started < 10


def test_disconnected_clients_leave_empty_queue(drawn_server):
    def disconnects(_) -> bool:
        timeout = httpx.Timeout(5, read=0.001)
        with drawn_server.client(timeout=timeout) as client:
            try:
                post(client, rows=list(range(16)), columns=list(range(16)))
            except httpx.TimeoutException:
                return True
            return False

    with ThreadPoolExecutor(8) as pool:
        # On a busy machine a response may arrive before the timeout of its client.
        assert any(pool.map(disconnects, range(8)))
    with drawn_server.client() as client:
        started = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - started < 10


def test_log_has_no_stack_trace(drawn_server):
    assert "Traceback" not in drawn_server.logged()
