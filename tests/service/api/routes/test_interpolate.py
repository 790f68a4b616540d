"""Walks through latent space over HTTP, against the real service."""

import io
import json
import time
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image, ImageSequence

from service.runtime.latent.interpolation import Interpolation, between
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.service.api.routes.test_generate import assert_problem
from tests.support.drawn_models import SIZE
from tests.support.servers import serving


@pytest.fixture
def client(drawn_server):
    with drawn_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, accept=None, **body) -> httpx.Response:
    headers = {"accept": accept} if accept else {}
    body = {"model": "painted", "sources": [1, 2], "frames": 5} | body
    return client.post("/v1/interpolate", json=body, headers=headers)


def pixels(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def test_a_model_with_styles_walks_through_them_in_a_line(client, load):
    model = load("painted")
    made = pixels(post(client, format="npy"))
    w = model.styles([1, 2])
    expected = [between(w[0], w[1], share, "linear") for share in (0, 0.25, 0.5, 0.75)] + [w[1]]
    np.testing.assert_array_equal(made, model.synthesize(np.stack(expected)))
    np.testing.assert_array_equal(made[[0, -1]], model.generate([1, 2]))


def test_in_z_the_way_is_spherical(client, load):
    model = load("cut")
    keys = tuple(LatentSource(seed, classes={1: 1.0}, truncation=0.7) for seed in (1, 2))
    made = pixels(post(client, model="cut", **{"class": "dog"}, format="npy"))
    walk = Interpolation(keys, 5, loop=False, space="z", path="spherical")
    expected = model.run("generator", walk.feeds(range(5), model.manifest))["pixels"]
    np.testing.assert_array_equal(made, expected)
    line = pixels(post(client, model="cut", **{"class": "dog"}, path="linear", format="npy"))
    np.testing.assert_array_equal(line[[0, -1]], made[[0, -1]])
    assert (line[2] != made[2]).any()


def test_classes_change_on_the_way(client, load):
    sources = [{"seed": 3, "class": "cat"}, {"seed": 3, "class": "dog"}]
    made = pixels(post(client, model="cut", sources=sources, frames=3, format="npy"))
    model = load("cut")
    np.testing.assert_array_equal(made[[0, -1]], model.generate([3, 3], [0, 1]))
    blend = {"cat": 0.5, "dog": 0.5}
    body = {"model": "cut", "seed": 3, "blend": blend, "format": "npy"}
    np.testing.assert_array_equal(made[1], pixels(client.post("/v1/generate", json=body))[0])
    # A graph that takes one class by its index can do so in w.
    made = pixels(post(client, model="painted-classes", sources=sources, frames=3, format="npy"))
    expected = load("painted-classes").generate([3, 3], [0, 1])
    np.testing.assert_array_equal(made[[0, -1]], expected)
    answer = post(client, model="painted-classes", sources=sources, space="z")
    assert_problem(answer, 422, "sources")
    assert "cannot blend classes" in answer.json()["detail"]


def test_a_loop_comes_back_to_its_beginning(client):
    whole = pixels(post(client, sources=[1, 2, 1], frames=9, format="npy"))
    loop = pixels(post(client, sources=[1, 2], frames=8, loop=True, format="npy"))
    np.testing.assert_array_equal(loop, whole[:-1])


def test_sources_may_be_latents_and_styles(client, load):
    model = load("painted")
    w = model.styles([2])[0]
    z = model.feeds([1])["z"][0]
    made = pixels(post(client, sources=[{"z": z.tolist()}, {"w": w.tolist()}], format="npy"))
    np.testing.assert_array_equal(made, pixels(post(client, format="npy")))


@pytest.mark.parametrize(
    ("form", "accept", "media_type", "kind"),
    [
        (None, None, "image/webp", "WEBP"),
        ("webp", None, "image/webp", "WEBP"),
        ("png", None, "image/png", "PNG"),
        ("gif", None, "image/gif", "GIF"),
        (None, "image/gif", "image/gif", "GIF"),
        (None, "image/apng", "image/png", "PNG"),
    ],
)
def test_an_animation_holds_the_frames(client, form, accept, media_type, kind):
    body = {} if form is None else {"format": form}
    answer = post(client, accept, frames=40, fps=10, **body)
    assert answer.headers["content-type"] == media_type
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.n_frames, image.size) == (kind, 40, (SIZE, SIZE))
    frames = np.array([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])
    made = pixels(post(client, frames=40, format="npy"))
    if kind == "GIF":
        # These pictures have twice as many colours as a palette holds.
        assert np.abs(frames.astype(int) - made).mean() < 12
    else:
        np.testing.assert_array_equal(frames, made)


def test_an_archive_says_of_each_frame_where_it_lies(client):
    answer = post(client, frames=4, format="zip")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == [f"{i}.png" for i in range(4)]
    image = Image.open(io.BytesIO(archive.read("1.png")))
    said = json.loads(image.text["ganymede"])
    assert said.pop("at") == pytest.approx(1 / 3)
    assert said == {
        "model": "painted",
        "version": "1",
        "digest": answer.headers["x-ganymede-digest"],
        "from": {"seed": 1},
        "to": {"seed": 2},
        "space": "w",
        "path": "linear",
    }


def test_frames_arrive_before_the_last_one_is_made(drawn_repository):
    """A walk of many chunks begins to arrive while the server still has most of it to make."""
    with (
        serving(drawn_repository, env={"GANYMEDE_MAX_FRAMES": "6000"}) as server,
        server.client() as client,
    ):
        body = {"model": "painted", "sources": [1, 2], "frames": 6000, "format": "npy"}
        with client.stream("POST", "/v1/interpolate", json=body) as answer:
            parts = answer.iter_raw()
            first = next(parts)
            made = _rows_run(client)
            rest = b"".join(parts)
        assert made < 6000
        assert np.load(io.BytesIO(first + rest)).shape == (6000, SIZE, SIZE, 3)
        assert _rows_run(client) >= 6000


def test_a_client_that_leaves_stops_the_walk(drawn_repository):
    with (
        serving(drawn_repository, env={"GANYMEDE_MAX_FRAMES": "10000"}) as server,
        server.client() as client,
    ):
        body = {"model": "painted", "sources": [1, 2], "frames": 10_000, "format": "zip"}
        with server.client() as leaver, leaver.stream("POST", "/v1/interpolate", json=body) as got:
            next(got.iter_raw())
        asked = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - asked < 20
        assert _rows_run(client) < 10_000
        assert "Traceback" not in server.logged()


def _rows_run(client) -> float:
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith('ganymede_batch_rows_sum{model="painted"}')]
    return float(found[0].split()[-1]) if found else 0.0


def test_a_full_queue_is_said_before_the_walk_begins_and_waited_for_after(drawn_repository):
    pixels_of_16 = 16 * SIZE * SIZE
    environment = {"GANYMEDE_QUEUE_PIXELS": str(pixels_of_16)}
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        # Chunks of four pictures; two walks side by side fill the queue over and over.
        assert len(pixels(post(client, frames=100, format="npy"))) == 100
        with client.stream("POST", "/v1/interpolate", json=_body(frames=600)) as answer:
            assert answer.status_code == 200
            others = [
                client.post("/v1/generate", json={"model": "painted", "n": 16, "format": "npy"})
                for _ in range(5)
            ]
            assert {other.status_code for other in others} <= {200, 429}
            whole = np.load(io.BytesIO(b"".join(answer.iter_raw())))
        assert len(whole) == 600


def _body(**more):
    return {"model": "painted", "sources": [1, 2], "format": "npy"} | more


BAD = {
    "one source": ({"sources": [1]}, "sources"),
    "one frame": ({"frames": 1}, "frames"),
    "too many frames": ({"frames": 601}, "frames"),
    "more sources than frames": ({"sources": [1, 2, 3], "frames": 2}, "sources"),
    "w in z": ({"sources": [1, {"w": [0.0] * 10}], "space": "z"}, "space"),
    "w without styles": ({"model": "cut", "space": "w"}, "model"),
    "a source of nothing": ({"sources": [1, {}]}, "sources.1"),
    "a bad seed": ({"sources": [1, -1]}, "sources.1"),
    "an unknown format": ({"format": "mp4"}, "format"),
    "an unknown path": ({"path": "bezier"}, "path"),
    "no speed": ({"fps": 0}, "fps"),
    "an unknown field": ({"seeds": [1, 2]}, "seeds"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_problem_that_names_the_field(client, name):
    body, field = BAD[name]
    answer = post(client, **body)
    assert_problem(answer, 422)
    assert any(error["field"].startswith(field) for error in answer.json()["errors"])


def test_a_form_that_cannot_be_had_is_a_problem(client):
    assert_problem(post(client, "video/mp4"), 406)


def test_the_maximum_is_stated(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["InterpolateRequest"]
    assert schema["properties"]["frames"]["maximum"] == 600
