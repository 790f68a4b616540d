import gc
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageSequence

from service.runtime.images.animation import WRITERS, AnimationSpec, write
from service.runtime.images.encoding import read_provenance

FRAMES = 7


def spec_of(channels=3, fps=20.0, height=12, width=10) -> AnimationSpec:
    return AnimationSpec(
        frames=FRAMES,
        height=height,
        width=width,
        channels=channels,
        fps=fps,
        provenance={"model": "a", "words": "€" * 300},
        frame_provenance=lambda i: {"model": "a", "frame": i},
    )


def random_frames(channels=3, height=12, width=10) -> np.ndarray:
    rng = np.random.default_rng(channels)
    pixels = rng.integers(0, 256, (FRAMES, height, width, channels), np.uint8)
    if channels == 4:
        pixels[..., 3] = np.where(pixels[..., 3] > 127, 255, 0)
    return pixels


def written(kind, spec, pixels) -> bytes:
    return write(WRITERS[kind](spec), pixels)


def frames(file: bytes, mode: str) -> np.ndarray:
    image = Image.open(io.BytesIO(file))
    return np.array([np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_lossless_animation_round_trips(kind, channels):
    pixels = random_frames(channels)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    file = written(kind, spec_of(channels), pixels)
    decoded = frames(file, mode).reshape(pixels.shape)
    if channels == 4:
        # The color of fully transparent pixels is not preserved.
        visible = pixels[..., 3] == 255
        np.testing.assert_array_equal(decoded[..., 3], pixels[..., 3])
        np.testing.assert_array_equal(decoded[visible], pixels[visible])
    else:
        np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gif_frames_are_close_to_original(channels):
    pixels = random_frames(channels)
    file = written("gif", spec_of(channels), pixels)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    decoded = frames(file, mode).reshape(pixels.shape)
    if channels == 4:
        visible = pixels[..., 3] == 255
        decoded, pixels = decoded[visible], pixels[visible]
    # 12 × 10 pixels have fewer colors than a palette.
    assert np.abs(decoded.astype(int) - pixels).mean() < (1 if channels != 4 else 40)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_animation_loops_with_duration_and_provenance(kind):
    image = Image.open(io.BytesIO(written(kind, spec_of(fps=20), random_frames())))
    assert image.n_frames == FRAMES
    assert image.info["loop"] == 0
    image.seek(1)
    image.load()
    assert image.info["duration"] == 50
    image.seek(0)
    assert read_provenance(image) == dict(spec_of().provenance)


@pytest.mark.parametrize(("kind", "unit"), [("gif", 10), ("png", 1), ("webp", 1)])
@pytest.mark.parametrize("fps", [24.0, 23.976, 30.0, 7.0])
def test_frame_durations_do_not_drift(kind, unit, fps):
    image = Image.open(io.BytesIO(written(kind, spec_of(fps=fps), random_frames())))
    elapsed = 0
    for i in range(FRAMES):
        image.seek(i)
        image.load()
        elapsed += image.info["duration"]
        assert abs(elapsed - 1000 * (i + 1) / fps) <= unit / 2


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_animation_keeps_image_size(kind):
    pixels = random_frames(height=5, width=33)
    image = Image.open(io.BytesIO(written(kind, spec_of(height=5, width=33), pixels)))
    assert image.size == (33, 5)


@pytest.mark.parametrize("kind", ["gif", "png", "zip", "npy"])
def test_frames_are_written_incrementally(kind):
    writer = WRITERS[kind](spec_of())
    writer.begin()
    for i, pixels in enumerate(random_frames()):
        assert len(writer.add(writer.encode(i, pixels))) > 100


def test_zip_contains_one_png_per_frame():
    pixels = random_frames()
    archive = zipfile.ZipFile(io.BytesIO(written("zip", spec_of(), pixels)))
    assert archive.namelist() == [f"{i}.png" for i in range(FRAMES)]
    assert archive.testzip() is None
    for i, name in enumerate(archive.namelist()):
        image = Image.open(io.BytesIO(archive.read(name)))
        np.testing.assert_array_equal(np.asarray(image), pixels[i])
        assert json.loads(image.text["ganymede"])["frame"] == i


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", WRITERS)
def test_abandoned_writer_is_finalized_without_error(kind):
    """This also holds if the garbage collector finalizes the stream before the archive."""
    for _ in range(3):
        writer = WRITERS[kind](spec_of())
        writer.cycle = writer
        writer.begin()
        writer.add(writer.encode(0, random_frames()[0]))
        del writer
        gc.collect()


def test_npy_contains_all_frames():
    pixels = random_frames(1)
    np.testing.assert_array_equal(np.load(io.BytesIO(written("npy", spec_of(1), pixels))), pixels)


@pytest.mark.parametrize("kind", WRITERS)
def test_output_is_deterministic(kind):
    assert written(kind, spec_of(), random_frames()) == written(kind, spec_of(), random_frames())
