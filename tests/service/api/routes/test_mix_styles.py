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
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.service.api.routes.test_generate import assert_problem, decode
from tests.support.drawn_models import BAND, LAYERS, SIZE
from tests.support.servers import serving

ROOT = Path(__file__).parents[4]


@pytest.fixture
def client(drawn_server):
    with drawn_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, accept=None, **body) -> httpx.Response:
    headers = {"accept": accept} if accept else {}
    body = {"model": "painted", "rows": [1, 2], "columns": [5, 6, 7]} | body
    return client.post("/v1/mix-styles", json=body, headers=headers)


def test_what_a_jpeg_has_no_room_to_say_is_refused_and_other_files_say_it(client):
    body = {"rows": [{"w": [0.5] * 10}] * 255, "columns": [1]}
    answer = post(client, format="jpeg", **body)
    assert_problem(answer, 422, "format")
    made = Image.open(io.BytesIO(post(client, format="webp", **body).content))
    assert len(json.loads(made.getexif()[0x010E].removeprefix("ganymede"))["rows"]) == 255


COARSE, FINE = {0: 1.0, 1: 1.0}, {4: 1.0, 5: 1.0}


def pixels(answer) -> np.ndarray:
    return np.load(io.BytesIO(answer.content))


def test_every_row_is_mixed_with_every_column_in_row_major_order(client, load):
    model = load("painted")
    mixed = mix_styles(model.styles([1, 2]), model.styles([5, 6, 7]), COARSE)
    made = pixels(post(client, layers="coarse", format="npy"))
    np.testing.assert_array_equal(made, model.synthesize(mixed))
    np.testing.assert_array_equal(pixels(post(client, format="npy")), made)


@given(
    rows=st.lists(st.integers(0, 99), min_size=1, max_size=4),
    columns=st.lists(st.integers(0, 99), min_size=1, max_size=4),
    layers=st.lists(st.integers(0, LAYERS - 1), min_size=1, max_size=8),
)
@settings(max_examples=20, deadline=None)
def test_bands_of_the_layers_are_the_columns_and_the_others_the_rows(
    drawn_server, load, rows, columns, layers
):
    model = load("painted")
    with drawn_server.client() as client:
        body = {"rows": rows, "columns": columns, "layers": layers, "format": "npy"}
        made = pixels(post(client, **body))
    pictures = made.reshape(len(rows), len(columns), LAYERS, BAND, SIZE, 3)
    own_rows = model.generate(rows).reshape(-1, LAYERS, BAND, SIZE, 3)
    own_columns = model.generate(columns).reshape(-1, LAYERS, BAND, SIZE, 3)
    for layer in range(LAYERS):
        expected = own_columns[None, :, layer] if layer in layers else own_rows[:, None, layer]
        assert (pictures[:, :, layer] == expected).all()


def test_layers_are_a_group_or_a_list_of_groups_and_indices(client):
    def layers(wish):
        answer = post(client, layers=wish)
        (said,) = {tuple(image["layers"]) for image in answer.json()["images"]}
        assert answer.headers["x-ganymede-layers"] == ",".join(map(str, said))
        return said

    assert layers("coarse") == (0, 1)
    assert layers("middle") == (2, 3)
    assert layers(["fine", "coarse"]) == (0, 1, 4, 5)
    assert layers([5, 0, 5]) == (0, 5)
    assert layers(["middle", 3, 4]) == (2, 3, 4)


def test_each_picture_says_what_it_was_mixed_of(client, load):
    body = {"model": "painted-classes", "layers": "fine", "truncation": 0.5}
    columns = [{"seed": 5, "class": "cat"}, {"seed": 6, "class": 2}]
    columns += [{"seed": 7, "class": "night owl", "truncation": 0.25}]
    body |= {"class": "dog", "columns": columns}
    answer = post(client, **body)
    images = answer.json()["images"]
    assert [(image["row"]["seed"], image["column"]["seed"]) for image in images] == [
        (row, column) for row in (1, 2) for column in (5, 6, 7)
    ]
    last = images[-1]
    file = base64.b64decode(last.pop("data"))
    said = {
        "row": {"seed": 2, "class": "dog", "truncation": 0.5},
        "column": {"seed": 7, "class": "night owl", "truncation": 0.25},
        "layers": [4, 5],
    }
    assert last == said | {"media_type": "image/png"}
    made = json.loads(Image.open(io.BytesIO(file)).text["ganymede"])
    identity = {key: answer.json()[key] for key in ("model", "version", "digest")}
    assert made == identity | said
    assert answer.headers["x-ganymede-row-classes"] == "1,1"
    assert answer.headers["x-ganymede-column-classes"] == "0,2,2"
    # Which is enough to make it again.
    model = load("painted-classes")
    w = mix_styles(model.styles([2], [1], [0.5]), model.styles([7], [2], [0.25]), FINE)
    np.testing.assert_array_equal(decode(file), model.synthesize(w)[0])


def test_without_a_class_a_source_has_the_class_that_its_seed_stands_for(client, load):
    model = load("painted-classes")
    made = pixels(post(client, model="painted-classes", format="npy"))
    expected = model.synthesize(mix_styles(model.styles([1, 2]), model.styles([5, 6, 7]), COARSE))
    np.testing.assert_array_equal(made, expected)
    # The same seed in two classes is two sources.
    rows = [{"seed": 1, "class": 0}, {"seed": 1, "class": 1}]
    body = {"rows": rows, "columns": [1], "class": 2, "format": "npy"}
    made = pixels(post(client, model="painted-classes", **body))
    expected = mix_styles(model.styles([1, 1], [0, 1]), model.styles([1], [2]), COARSE)
    np.testing.assert_array_equal(made, model.synthesize(expected))


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_a_picture_is_the_grid_of_the_paper(client, load, form, kind):
    answer = post(client, rows=[1, 5], columns=[5, 6, 6], format=form)
    assert answer.headers["content-type"] == f"image/{form}"
    assert Image.open(io.BytesIO(answer.content)).format == kind
    if form == "jpeg":
        return
    model = load("painted")
    tiles = decode(answer.content).reshape(3, SIZE, 4, SIZE, 3).swapaxes(1, 2)
    assert (tiles[0, 0] == 255).all()
    np.testing.assert_array_equal(tiles[0, 1:], model.generate([5, 6, 6]))
    np.testing.assert_array_equal(tiles[1:, 0], model.generate([1, 5]))
    mixed = pixels(post(client, rows=[1, 5], columns=[5, 6, 6], format="npy"))
    np.testing.assert_array_equal(tiles[1:, 1:].reshape(mixed.shape), mixed)


def test_the_grid_says_how_it_was_made(client):
    body = {"model": "painted-classes", "format": "png", "class": "cat", "truncation": 1}
    answer = post(client, **body)
    made = json.loads(Image.open(io.BytesIO(answer.content)).text["ganymede"])
    assert made == {
        "model": "painted-classes",
        "version": "1",
        "digest": answer.headers["x-ganymede-digest"],
        "rows": [{"seed": seed, "class": "cat", "truncation": 1.0} for seed in (1, 2)],
        "columns": [{"seed": seed, "class": "cat", "truncation": 1.0} for seed in (5, 6, 7)],
        "layers": [0, 1],
    }
    assert answer.headers["x-ganymede-rows"] == "1,2"
    assert answer.headers["x-ganymede-columns"] == "5,6,7"


def test_layers_may_follow_by_weights(client, load):
    model = load("painted")
    answer = post(client, layers={"coarse": 0.25, "3": 1}, rows=[1], columns=[5], format="json")
    (image,) = answer.json()["images"]
    assert image["layers"] == {"0": 0.25, "1": 0.25, "3": 1.0}
    assert answer.headers["x-ganymede-layers"] == "0:0.25,1:0.25,3"
    w, other = model.styles([1]), model.styles([5])
    w[:, :2] += np.float32(0.25) * (other - w)[:, :2]
    w[:, 3] = other[:, 3]
    made = decode(base64.b64decode(image["data"]))
    assert np.abs(made.astype(int) - model.synthesize(w)[0]).max() <= 1


def test_sources_may_be_latents_and_styles(client, load):
    model = load("painted")
    z = seeds.draw([1], 16)[0]
    w = model.styles([5])[0]
    rows = [{"z": z.tolist()}, {"z": encode_floats(z)}, 1]
    columns = [{"w": w.tolist()}, {"w": encode_floats(w)}, {"w": w[0].tolist()}, 5]
    answer = post(client, rows=rows, columns=columns, format="npy")
    made = pixels(answer).reshape(3, 4, SIZE, SIZE, 3)
    assert (made == made[0, 0]).all()
    assert answer.headers["x-ganymede-rows"] == "z,z,1"
    assert answer.headers["x-ganymede-columns"] == "w,w,w,5"
    np.testing.assert_array_equal(made[0, 0], pixels(post(client, rows=[1], format="npy"))[0])


def test_one_row_and_one_column_are_one_picture(client):
    answer = post(client, "image/png", rows=[1], columns=[5])
    mixed = pixels(post(client, rows=[1], columns=[5], format="npy"))
    np.testing.assert_array_equal(decode(answer.content), mixed[0])
    assert json.loads(Image.open(io.BytesIO(answer.content)).text["ganymede"])["row"] == {"seed": 1}


def test_a_source_is_mapped_once_however_often_it_is_asked_for(client):
    def rows_run() -> float:
        text = client.get("/metrics").text
        found = re.search(
            r'^ganymede_batch_rows_sum\{model="painted-classes"\} (.*)$', text, re.MULTILINE
        )
        return float(found.group(1)) if found else 0.0

    # Seeds that no other test asks for, else their styles might be known already.
    a, b = 870_001, 870_002
    before = rows_run()
    answer = post(client, model="painted-classes", rows=[a, a, b], columns=[b, a], format="npy")
    assert len(pixels(answer)) == 6
    # Two sources mapped, six pictures made; a grid shows the sources too, each made once. Their
    # styles are known by then.
    assert rows_run() == before + 2 + 6
    post(client, model="painted-classes", rows=[a, a, b], columns=[b, a], format="png")
    assert rows_run() == before + 2 + 6 + 2 + 6
    post(client, model="painted-classes", rows=[a], columns=[b], truncation=0.1, format="npy")
    assert rows_run() == before + 2 + 6 + 2 + 6 + 2 + 1


def test_an_archive_names_the_sources(client):
    archive = zipfile.ZipFile(io.BytesIO(post(client, format="zip", rows=[1]).content))
    names = ["0-row-1-column-5.png", "1-row-1-column-6.png", "2-row-1-column-7.png"]
    assert archive.namelist() == names
    pictures = [decode(archive.read(name)) for name in names]
    np.testing.assert_array_equal(pictures, pixels(post(client, format="npy", rows=[1])))


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
def test_the_form_follows_accept(client, accept, media_type):
    assert post(client, accept).headers["content-type"] == media_type


@pytest.mark.parametrize("form", ["png", "npy", "json"])
def test_the_same_mix_gives_the_same_bytes_alone_and_in_a_crowd(client, form):
    def ask(seed):
        return post(client, rows=[seed, 1], columns=[5, seed + 1], format=form).content

    alone = {seed: ask(seed) for seed in range(0, 32, 9)}
    with ThreadPoolExecutor(32) as pool:
        crowd = list(pool.map(ask, range(32)))
    assert len(set(crowd)) == 32
    for seed, content in alone.items():
        assert crowd[seed] == content


def test_pictures_of_a_model_with_styles_have_seeds_classes_and_addresses_too(client, load):
    model = load("painted-classes")
    body = {"model": "painted-classes", "seeds": [7, 8], "class": ["dog", "cat"], "format": "npy"}
    answer = client.post("/v1/generate", json=body)
    np.testing.assert_array_equal(pixels(answer), model.generate([7, 8], [1, 0]))
    answer = client.get("/v1/models/painted-classes/images/7.png?class=dog")
    np.testing.assert_array_equal(decode(answer.content), model.generate([7], [1])[0])


def test_a_model_shows_its_styles(client):
    cards = {card["name"]: card for card in client.get("/v1/models").json()["data"]}
    styles = cards["painted"]["styles"]
    assert [layer["group"] for layer in styles["layers"]][::2] == ["coarse", "middle", "fine"]
    assert styles["layers"][0]["resolution"] < styles["layers"][-1]["resolution"]
    assert "styles" not in cards["cut"]


def test_a_model_without_styles_says_that_it_has_none_and_why(client):
    answer = post(client, model="cut")
    assert_problem(answer, 422, "model")
    assert "cut has no styles to mix: its generator maps a latent" in answer.json()["detail"]


BAD = {
    "no rows": ({"rows": []}, "rows"),
    "no columns": ({"columns": []}, "columns"),
    "rows that are a number": ({"rows": 1}, "rows"),
    "a bad seed": ({"columns": [1, 2**32]}, "columns.1"),
    "too many pictures": ({"rows": list(range(100)), "columns": [1, 2, 3]}, "rows"),
    "a million seeds": ({"rows": [1] * 1_000_000}, "rows"),
    "an unknown group": ({"layers": "tiny"}, "layers"),
    "an unknown group in a list": ({"layers": ["coarse", "tiny"]}, "layers"),
    "a layer beyond the last": ({"layers": [LAYERS]}, "layers"),
    "a layer before the first": ({"layers": [-1]}, "layers"),
    "a truth value as a layer": ({"layers": [True]}, "layers"),
    "no layers": ({"layers": []}, "layers"),
    "layers that are nothing": ({"layers": None}, "layers"),
    "a class without classes": ({"class": "cat"}, "class"),
    "a source's class without classes": ({"rows": [{"seed": 1, "class": 0}]}, "rows.0.class"),
    "a source's unknown class": (
        {"model": "painted-classes", "columns": [5, {"seed": 1, "class": "cow"}]},
        "columns.1.class",
    ),
    "a source of nothing": ({"rows": [{}]}, "rows.0"),
    "a source of two things": ({"rows": [{"seed": 1, "z": [0.0] * 16}]}, "rows.0"),
    "a z of another length": ({"rows": [{"z": [0.0] * 15}]}, "rows.0.z"),
    "a z that is not finite": ({"rows": [{"z": [1e39] * 16}]}, "rows.0.z"),
    "a w of another length": ({"rows": [{"w": [0.0] * 11}]}, "rows.0.w"),
    "a w of rows that differ": ({"rows": [{"w": [[0.0], [0.0, 1.0]]}]}, "rows.0.w"),
    "a w that is no base64": ({"rows": [{"w": "?"}]}, "rows.0.w"),
    "a w and a truncation": ({"rows": [{"w": [0.0] * 10, "truncation": 1}]}, "rows.0.truncation"),
    "a class that no index blends": (
        {"model": "painted-classes", "rows": [{"seed": 1, "blend": {"cat": 1, "dog": 1}}]},
        "rows.0.blend",
    ),
    "a weight beyond 1": ({"layers": {"0": 1.5}}, "layers"),
    "a weight of no layer": ({"layers": {"tiny": 0.5}}, "layers"),
    "a truncation without truncation": ({"truncation": 0.5}, "truncation"),
    "a truncation out of range": ({"model": "painted-classes", "truncation": 2}, "truncation"),
    "a list of truncations": ({"model": "painted-classes", "truncation": [1]}, "truncation"),
    "an unknown field": ({"psi": 1}, "psi"),
    "an unknown format": ({"format": "gif"}, "format"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_problem_that_names_the_field(client, name):
    body, field = BAD[name]
    answer = post(client, **body)
    assert_problem(answer, 422)
    assert any(error["field"].startswith(field) for error in answer.json()["errors"])
    assert len(answer.content) < 10_000


def test_a_form_that_cannot_be_had_is_a_problem(client):
    assert_problem(post(client, "image/bmp"), 406)


def test_the_maximum_is_stated_and_is_the_maximum(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["MixStylesRequest"]
    maximum = schema["properties"]["rows"]["maxItems"]
    answer = post(client, rows=list(range(maximum)), columns=[1], format="png")
    assert decode(answer.content).shape == ((maximum + 1) * SIZE, 2 * SIZE, 3)
    answer = post(client, rows=list(range(maximum // 2 + 1)), columns=[1, 2])
    assert_problem(answer, 422, "rows")
    assert str(maximum) in answer.json()["detail"]


def test_rejects_grid_too_large_for_format_or_queue(drawn_repository):
    environment = {"GANYMEDE_MAX_IMAGES": "1000", "GANYMEDE_QUEUE_PIXELS": str(950 * SIZE * SIZE)}
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        answer = post(client, rows=list(range(700)), columns=[1], format="webp")
        assert_problem(answer, 422, "format")
        assert "16383 per side" in answer.json()["detail"]
        answer = post(client, rows=list(range(1000)), columns=[1], format="npy")
        assert_problem(answer, 422, "rows")
        assert "larger than the queue" in answer.json()["detail"]
        assert len(pixels(post(client, rows=list(range(900)), columns=[1], format="npy"))) == 900
        # Nothing of what was refused is left within the bound.
        assert "ganymede_queue_pixels 0.0" in client.get("/metrics").text


def test_past_its_deadline_a_mix_gets_504_and_leaves_nothing_behind(drawn_repository):
    environment = {"GANYMEDE_DEADLINE_S": "0.0001"}
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        answer = post(client, rows=list(range(16)), columns=list(range(16)))
        assert_problem(answer, 504)
        asked = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - asked < 10


def test_clients_that_leave_leave_nothing_behind(drawn_server):
    def has_left(_) -> bool:
        patience = httpx.Timeout(5, read=0.001)
        with drawn_server.client(timeout=patience) as client:
            try:
                post(client, rows=list(range(16)), columns=list(range(16)))
            except httpx.TimeoutException:
                return True
            return False

    with ThreadPoolExecutor(8) as pool:
        # On a busy machine an answer may be there before its client looks at the clock.
        assert any(pool.map(has_left, range(8)))
    with drawn_server.client() as client:
        asked = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - asked < 10


def test_the_log_holds_no_stack_trace_after_all_of_this(drawn_server):
    assert "Traceback" not in drawn_server.logged()
