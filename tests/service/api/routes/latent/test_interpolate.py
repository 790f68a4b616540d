"""Interpolation in latent space over HTTP, against the real service."""

import io
import json
import time
import zipfile

import av
import httpx
import numpy as np
import pytest
from PIL import Image, ImageSequence

from service.runtime.latent.interpolation import Interpolation, between
from service.runtime.latent.sources import LatentSource
from tests.support.drawn_models import SIZE
from tests.support.responses import assert_problem, npy_pixels
from tests.support.servers import serving


def post(client, accept=None, **body) -> httpx.Response:
    headers = {"accept": accept} if accept else {}
    body = {"model": "painted", "sources": [1, 2], "frames": 5} | body
    return client.post("/v1/interpolate", json=body, headers=headers)


def test_interpolates_styles_linearly(client, load):
    model = load("painted")
    frames = npy_pixels(post(client, format="npy"))
    w = model.styles([1, 2])
    expected = [between(w[0], w[1], t, "linear") for t in (0, 0.25, 0.5, 0.75)] + [w[1]]
    np.testing.assert_array_equal(frames, model.synthesize(np.stack(expected)))
    np.testing.assert_array_equal(frames[[0, -1]], model.generate([1, 2]))


def test_interpolates_latents_spherically(client, load):
    model = load("cut")
    keys = tuple(LatentSource(seed, classes={1: 1.0}, truncation=0.7) for seed in (1, 2))
    frames = npy_pixels(post(client, model="cut", **{"class": "dog"}, format="npy"))
    interpolation = Interpolation(keys, 5, loop=False, space="z", path="spherical")
    expected = model.run("generator", interpolation.feeds(range(5), model.manifest))["pixels"]
    np.testing.assert_array_equal(frames, expected)
    linear = npy_pixels(post(client, model="cut", **{"class": "dog"}, path="linear", format="npy"))
    np.testing.assert_array_equal(linear[[0, -1]], frames[[0, -1]])
    assert (linear[2] != frames[2]).any()


def test_interpolates_between_classes(client, load):
    sources = [{"seed": 3, "class": "cat"}, {"seed": 3, "class": "dog"}]
    frames = npy_pixels(post(client, model="cut", sources=sources, frames=3, format="npy"))
    model = load("cut")
    np.testing.assert_array_equal(frames[[0, -1]], model.generate([3, 3], [0, 1]))
    blend = {"cat": 0.5, "dog": 0.5}
    body = {"model": "cut", "seed": 3, "blend": blend, "format": "npy"}
    np.testing.assert_array_equal(frames[1], npy_pixels(client.post("/v1/generate", json=body))[0])
    # With a graph that takes a class index, classes are interpolated in w.
    frames = npy_pixels(
        post(client, model="painted-classes", sources=sources, frames=3, format="npy")
    )
    expected = load("painted-classes").generate([3, 3], [0, 1])
    np.testing.assert_array_equal(frames[[0, -1]], expected)
    response = post(client, model="painted-classes", sources=sources, space="z")
    assert_problem(response, 422, "sources")
    assert "cannot blend classes" in response.json()["detail"]


def test_loop_returns_to_first_source(client):
    closed = npy_pixels(post(client, sources=[1, 2, 1], frames=9, format="npy"))
    loop = npy_pixels(post(client, sources=[1, 2], frames=8, loop=True, format="npy"))
    np.testing.assert_array_equal(loop, closed[:-1])


def test_accepts_latents_and_styles_as_sources(client, load):
    model = load("painted")
    w = model.styles([2])[0]
    z = model.feeds([1])["z"][0]
    frames = npy_pixels(post(client, sources=[{"z": z.tolist()}, {"w": w.tolist()}], format="npy"))
    np.testing.assert_array_equal(frames, npy_pixels(post(client, format="npy")))


@pytest.mark.parametrize(
    ("output_format", "accept", "media_type", "kind"),
    [
        (None, None, "image/webp", "WEBP"),
        ("webp", None, "image/webp", "WEBP"),
        ("png", None, "image/png", "PNG"),
        ("gif", None, "image/gif", "GIF"),
        (None, "image/gif", "image/gif", "GIF"),
        (None, "image/apng", "image/png", "PNG"),
    ],
)
def test_animation_contains_frames(client, output_format, accept, media_type, kind):
    body = {} if output_format is None else {"format": output_format}
    response = post(client, accept, frames=40, fps=10, **body)
    assert response.headers["content-type"] == media_type
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.n_frames, image.size) == (kind, 40, (SIZE, SIZE))
    frames = np.array([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])
    frames = npy_pixels(post(client, frames=40, format="npy"))
    if kind == "GIF":
        # The images have about twice as many colors as a GIF palette.
        assert np.abs(frames.astype(int) - frames).mean() < 12
    else:
        np.testing.assert_array_equal(frames, frames)


def test_zip_frames_contain_provenance(client):
    response = post(client, frames=4, format="zip")
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.namelist() == [f"{i}.png" for i in range(4)]
    image = Image.open(io.BytesIO(archive.read("1.png")))
    provenance = json.loads(image.text["ganymede"])
    assert provenance.pop("at") == pytest.approx(1 / 3)
    assert provenance == {
        "model": "painted",
        "version": "1",
        "digest": response.headers["x-ganymede-digest"],
        "from": {"seed": 1},
        "to": {"seed": 2},
        "space": "w",
        "path": "linear",
    }


def test_streams_frames_while_generating(drawn_repository):
    """The first bytes arrive while most of the frames are still to be generated."""
    with (
        serving(drawn_repository, env={"GANYMEDE_MAX_FRAMES": "6000"}) as server,
        server.client() as client,
    ):
        body = {"model": "painted", "sources": [1, 2], "frames": 6000, "format": "npy"}
        with client.stream("POST", "/v1/interpolate", json=body) as response:
            parts = response.iter_raw()
            first = next(parts)
            rows = _rows_run(client)
            rest = b"".join(parts)
        assert rows < 6000
        assert np.load(io.BytesIO(first + rest)).shape == (6000, SIZE, SIZE, 3)
        assert _rows_run(client) >= 6000


def test_stops_when_client_disconnects(drawn_repository):
    with (
        serving(drawn_repository, env={"GANYMEDE_MAX_FRAMES": "10000"}) as server,
        server.client() as client,
    ):
        body = {"model": "painted", "sources": [1, 2], "frames": 10_000, "format": "zip"}
        with server.client() as other, other.stream("POST", "/v1/interpolate", json=body) as stream:
            next(stream.iter_raw())
        started = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - started < 20
        assert _rows_run(client) < 10_000
        assert "Traceback" not in server.logged()


def _rows_run(client) -> float:
    """Return how many rows the model has run so far."""
    lines = client.get("/metrics").text.splitlines()
    sums = [line for line in lines if line.startswith('ganymede_batch_rows_sum{model="painted"}')]
    return float(sums[0].split()[-1]) if sums else 0.0


def test_waits_for_queue_after_first_frames(drawn_repository):
    pixels_of_16 = 16 * SIZE * SIZE
    environment = {"GANYMEDE_QUEUE_PIXELS": str(pixels_of_16)}
    with serving(drawn_repository, env=environment) as server, server.client() as client:
        # A chunk has four frames; concurrent requests fill the queue repeatedly.
        assert len(npy_pixels(post(client, frames=100, format="npy"))) == 100
        with client.stream("POST", "/v1/interpolate", json=_body(frames=600)) as response:
            assert response.status_code == 200
            responses = [
                client.post("/v1/generate", json={"model": "painted", "n": 16, "format": "npy"})
                for _ in range(5)
            ]
            assert {response.status_code for response in responses} <= {200, 429}
            frames = np.load(io.BytesIO(b"".join(response.iter_raw())))
        assert len(frames) == 600


def _body(**fields):
    return {"model": "painted", "sources": [1, 2], "format": "npy"} | fields


BAD = {
    "one source": ({"sources": [1]}, "sources"),
    "one frame": ({"frames": 1}, "frames"),
    "too many frames": ({"frames": 601}, "frames"),
    "more sources than frames": ({"sources": [1, 2, 3], "frames": 2}, "sources"),
    "w in the space z": ({"sources": [1, {"w": [0.0] * 10}], "space": "z"}, "space"),
    "space w for a model without styles": ({"model": "cut", "space": "w"}, "model"),
    "empty source": ({"sources": [1, {}]}, "sources.1"),
    "invalid seed": ({"sources": [1, -1]}, "sources.1"),
    "an unknown format": ({"format": "mov"}, "format"),
    "an unknown path": ({"path": "bezier"}, "path"),
    "zero fps": ({"fps": 0}, "fps"),
    "an unknown field": ({"seeds": [1, 2]}, "seeds"),
}


@pytest.mark.parametrize("name", BAD)
def test_problem_names_invalid_field(client, name):
    body, field = BAD[name]
    response = post(client, **body)
    assert_problem(response, 422)
    assert any(error["field"].startswith(field) for error in response.json()["errors"])


def test_rejects_unsupported_accept(client):
    assert_problem(post(client, "video/quicktime"), 406)


def test_documents_max_frames(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["InterpolateRequest"]
    assert schema["properties"]["frames"]["maximum"] == 600


def decoded(response, media_type) -> tuple[np.ndarray, dict]:
    """Return the frames ``[N, H, W, 3]`` of a video, and the provenance in its comment."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == media_type
    with av.open(io.BytesIO(response.content)) as film:
        texts = {name.lower(): text for name, text in film.metadata.items()}
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    return np.stack(frames), json.loads(texts["comment"].removeprefix("ganymede "))


@pytest.mark.parametrize(
    ("output_format", "accept", "media_type"),
    [
        ("mp4", None, "video/mp4"),
        ("webm", None, "video/webm"),
        (None, "video/webm", "video/webm"),
        (None, "video/*", "video/mp4"),
    ],
)
def test_walk_is_a_video(client, output_format, accept, media_type):
    body = {} if output_format is None else {"format": output_format}
    response = post(client, accept, frames=40, fps=10, scale=4, **body)
    frames, provenance = decoded(response, media_type)
    expected = npy_pixels(post(client, frames=40, format="npy")).repeat(4, 1).repeat(4, 2)
    assert frames.shape == expected.shape
    # The colors of the drawn images change from pixel to pixel, which 4:2:0 does not keep.
    assert np.abs(frames.astype(int) - expected).mean() < 12
    assert np.abs(frames[0].astype(int) - expected[-1]).mean() > 20
    assert provenance["digest"] == response.headers["x-ganymede-digest"]
    assert (provenance["fps"], provenance["scale"], provenance["quality"]) == (10, 4, 80)
    assert provenance["walk"]["sources"] == [{"seed": 1}, {"seed": 2}]
    # The same request gives the same bytes.
    assert post(client, accept, frames=40, fps=10, scale=4, **body).content == response.content


def test_quality_of_a_video_changes_its_size(client):
    sizes = [
        len(post(client, format="mp4", scale=4, quality=quality).content) for quality in (10, 95)
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("output_format", "kind"), [("gif", "nearest"), ("webp", "bicubic")])
def test_animations_are_enlarged(client, output_format, kind):
    response = post(client, format=output_format, scale=3, filter=kind)
    image = Image.open(io.BytesIO(response.content))
    assert image.size == (3 * SIZE, 3 * SIZE)
    if kind == "bicubic":
        original = Image.fromarray(npy_pixels(post(client, format="npy"))[0])
        expected = original.resize(image.size, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(expected))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"format": "webp", "quality": 50}, "quality"),
        ({"format": "mp4", "quality": 0}, "quality"),
        ({"format": "zip", "scale": 2}, "scale"),
        ({"format": "mp4", "scale": 17}, "scale"),
        ({"format": "mp4", "filter": "bicubic"}, "filter"),
    ],
)
def test_rejects_options_that_a_format_does_not_have(client, fields, field):
    assert_problem(post(client, **fields), 422, field)
