import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageSequence

from service.runtime.images.animation import WRITERS, AnimationSpec, write
from service.runtime.images.encoding import read_provenance

FRAMES = 7


def film(channels=3, fps=20.0, height=12, width=10) -> AnimationSpec:
    return AnimationSpec(
        frames=FRAMES,
        height=height,
        width=width,
        channels=channels,
        fps=fps,
        provenance={"model": "a", "words": "€" * 300},
        frame_provenance=lambda i: {"model": "a", "frame": i},
    )


def pictures(channels=3, height=12, width=10) -> np.ndarray:
    rng = np.random.default_rng(channels)
    made = rng.integers(0, 256, (FRAMES, height, width, channels), np.uint8)
    if channels == 4:
        made[..., 3] = np.where(made[..., 3] > 127, 255, 0)
    return made


def written(kind, film, pixels) -> bytes:
    return write(WRITERS[kind](film), pixels)


def frames(file: bytes, mode: str) -> np.ndarray:
    image = Image.open(io.BytesIO(file))
    return np.array([np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_lossless_animation_holds_every_pixel(kind, channels):
    pixels = pictures(channels)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    file = written(kind, film(channels), pixels)
    got = frames(file, mode).reshape(pixels.shape)
    if channels == 4:
        # What cannot be seen has no colour to keep.
        seen = pixels[..., 3] == 255
        np.testing.assert_array_equal(got[..., 3], pixels[..., 3])
        np.testing.assert_array_equal(got[seen], pixels[seen])
    else:
        np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_gif_holds_the_frames_in_256_colours(channels):
    pixels = pictures(channels)
    file = written("gif", film(channels), pixels)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    got = frames(file, mode).reshape(pixels.shape)
    if channels == 4:
        seen = pixels[..., 3] == 255
        got, pixels = got[seen], pixels[seen]
    # Twelve by ten pixels have no more colours than a palette.
    assert np.abs(got.astype(int) - pixels).mean() < (1 if channels != 4 else 40)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_an_animation_repeats_lasts_and_says_how_it_was_made(kind):
    image = Image.open(io.BytesIO(written(kind, film(fps=20), pictures())))
    assert image.n_frames == FRAMES
    assert image.info["loop"] == 0
    image.seek(1)
    image.load()
    assert image.info["duration"] == 50
    image.seek(0)
    assert read_provenance(image) == dict(film().provenance)


@pytest.mark.parametrize(("kind", "unit"), [("gif", 10), ("png", 1), ("webp", 1)])
@pytest.mark.parametrize("fps", [24.0, 23.976, 30.0, 7.0])
def test_an_animation_lasts_as_long_as_its_frames_should(kind, unit, fps):
    image = Image.open(io.BytesIO(written(kind, film(fps=fps), pictures())))
    lasted = 0
    for i in range(FRAMES):
        image.seek(i)
        image.load()
        lasted += image.info["duration"]
        assert abs(lasted - 1000 * (i + 1) / fps) <= unit / 2


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_an_animation_has_its_size(kind):
    pixels = pictures(height=5, width=33)
    image = Image.open(io.BytesIO(written(kind, film(height=5, width=33), pixels)))
    assert image.size == (33, 5)


@pytest.mark.parametrize("kind", ["gif", "png", "zip", "npy"])
def test_frames_leave_as_they_are_made(kind):
    writer = WRITERS[kind](film())
    writer.begin()
    for i, pixels in enumerate(pictures()):
        assert len(writer.add(writer.encode(i, pixels))) > 100


def test_an_archive_holds_a_png_of_each_frame():
    pixels = pictures()
    archive = zipfile.ZipFile(io.BytesIO(written("zip", film(), pixels)))
    assert archive.namelist() == [f"{i}.png" for i in range(FRAMES)]
    assert archive.testzip() is None
    for i, name in enumerate(archive.namelist()):
        image = Image.open(io.BytesIO(archive.read(name)))
        np.testing.assert_array_equal(np.asarray(image), pixels[i])
        assert json.loads(image.text["ganymede"])["frame"] == i


def test_an_array_holds_all_frames():
    pixels = pictures(1)
    np.testing.assert_array_equal(np.load(io.BytesIO(written("npy", film(1), pixels))), pixels)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_frames_give_the_same_bytes(kind):
    assert written(kind, film(), pictures()) == written(kind, film(), pictures())
