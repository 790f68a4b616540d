import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.runtime.images import png

sides = st.integers(1, 40)


def decoded(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file), formats=["PNG"]) as image:
        image.load()
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def image_of(height: int, width: int, channels: int, seed: int, noisy: bool) -> np.ndarray:
    values = np.random.default_rng(seed)
    if noisy:
        return values.integers(0, 256, (height, width, channels), np.uint8)
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 5) + seed
    return np.stack([ramp * (c + 1) for c in range(channels)], axis=-1).astype(np.uint8)


@pytest.fixture(params=["all", "no fpng", "Pillow alone"])
def encoders(request, monkeypatch):
    """Each combination of installed encoders."""
    if request.param != "all":
        monkeypatch.setattr(png, "fpng", None)
    if request.param == "Pillow alone":
        monkeypatch.setattr(png, "isal_zlib", None)
    return request.param


def test_fast_encoders_are_installed():
    assert png.fpng is not None
    assert png.isal_zlib is not None


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_round_trips_with_every_encoder(encoders, channels):
    @given(sides, sides, st.integers(0, 255), st.booleans())
    def holds(height, width, seed, noisy):
        pixels = image_of(height, width, channels, seed, noisy)
        assert (decoded(png.encode_png(pixels, {})) == pixels).all()

    holds()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (700, 900)])
def test_round_trips_long_and_large_images(encoders, channels, shape):
    for noisy in (False, True):
        pixels = image_of(*shape, channels, 1, noisy)
        assert (decoded(png.encode_png(pixels, {})) == pixels).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_text_precedes_pixel_data(encoders, channels):
    text = json.dumps({"seed": 7})
    file = png.encode_png(image_of(9, 8, channels, 0, True), {"ganymede": text})
    kinds = [kind for kind, _ in png.chunks(file)]
    assert kinds[:2] == [b"IHDR", b"tEXt"]
    assert kinds[-1] == b"IEND"
    with Image.open(io.BytesIO(file)) as image:
        # Available after reading the header, before any pixel is decoded.
        assert image.info["ganymede"] == text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encodes_non_contiguous_views(encoders, channels):
    image = image_of(20, 30, channels, 3, True)
    view = image[::-2, 5:25:3]
    assert (decoded(png.encode_png(view, {})) == view).all()


def test_large_images_use_other_encoder(monkeypatch):
    pixels = image_of(33, 32, 3, 0, False)
    with_fpng = png.encode_png(pixels, {})
    monkeypatch.setattr(png, "_MAX_FPNG_PIXELS", 1024)
    without_fpng = png.encode_png(pixels, {})
    assert without_fpng != with_fpng
    assert (decoded(without_fpng) == pixels).all()


def test_output_is_deterministic(encoders):
    pixels = image_of(64, 64, 3, 5, True)
    assert png.encode_png(pixels, {"a": "b"}) == png.encode_png(pixels.copy(), {"a": "b"})
