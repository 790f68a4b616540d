import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.runtime.images.encoding import (
    KEYWORD,
    ImageFormat,
    encode,
    encode_npy,
    mixing_grid,
    on_white,
    pack_zip,
)

RNG = np.random.default_rng(0)
PROVENANCE = {"model": "m", "seed": 7, "digest": "sha256:ab"}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [ImageFormat.PNG, ImageFormat.WEBP])
def test_png_and_webp_round_trip(kind, channels):
    pixels = RNG.integers(0, 256, (20, 30, channels), np.uint8)
    if channels == 4:
        pixels[:5, :, 3] = 0  # Colors of transparent pixels must be preserved, too.
    image = Image.open(io.BytesIO(encode(pixels, kind, PROVENANCE)))
    assert image.format == kind.upper()
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    decoded = np.asarray(image.convert(mode)).reshape(pixels.shape)
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_composites_transparency_on_white(channels):
    pixels = np.full((16, 16, channels), 90, np.uint8)
    if channels == 4:
        pixels[..., 3] = 0
    image = Image.open(io.BytesIO(encode(pixels, ImageFormat.JPEG, PROVENANCE)))
    assert image.mode == ("L" if channels == 1 else "RGB")
    expected = 255 if channels == 4 else 90
    assert abs(np.asarray(image).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", list(ImageFormat))
def test_files_contain_provenance(kind):
    pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.open(io.BytesIO(encode(pixels, kind, PROVENANCE)))
    if kind is ImageFormat.PNG:
        text = image.text[KEYWORD]
    else:
        text = image.getexif()[0x010E].removeprefix(f"{KEYWORD} ")
    assert json.loads(text) == PROVENANCE


def test_npy_and_zip_round_trip_without_timestamps():
    pixels = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_npy(pixels))), pixels)
    files = [("a.png", b"1"), ("b.png", b"22")]
    assert pack_zip(files) == pack_zip(files)
    with zipfile.ZipFile(io.BytesIO(pack_zip(files))) as archive:
        assert [(name, archive.read(name)) for name in archive.namelist()] == files


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mixing_grid_layout(channels):
    columns = np.stack([np.full((2, 3, channels), value, np.uint8) for value in (10, 20, 30)])
    rows = np.stack([np.full((2, 3, channels), value, np.uint8) for value in (1, 2)])
    mixed = np.concatenate([columns + row[0, 0, 0] for row in rows])
    grid = mixing_grid(columns, rows, mixed)
    assert grid.shape == (6, 12, channels)
    expected = [[255, 10, 20, 30], [1, 11, 21, 31], [2, 12, 22, 32]]
    np.testing.assert_array_equal(grid[::2, ::3, 0], expected)
    np.testing.assert_array_equal(grid[1::2, 2::3, -1], expected)


@pytest.mark.parametrize("kind", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_rejects_side_above_format_limit(kind):
    encode(np.zeros((1, kind.longest_side, 1), np.uint8), kind, PROVENANCE)
    with pytest.raises((OSError, ValueError)):
        encode(np.zeros((1, kind.longest_side + 1, 1), np.uint8), kind, PROVENANCE)


def test_every_value_and_opacity_on_white_is_rounded_to_the_nearest():
    values, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    blended = on_white(values[..., None], alpha)
    opacity = alpha / 255
    expected = np.rint(values * opacity + 255 * (1 - opacity))
    np.testing.assert_array_equal(blended[..., 0], expected)
