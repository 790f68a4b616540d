import io

import numpy as np
import pytest
from PIL import Image

from training.data.images import fit
from training.data.preparation.conversion import convert
from training.data.preparation.options import PreparationOptions


def noise(width, height, mode="RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def converted(image, **options):
    result = convert(image, PreparationOptions(**options))
    return Image.open(io.BytesIO(result.file)), result.changes


@pytest.mark.parametrize("size", [(40, 30), (31, 47), (32, 32), (16, 9)])
def test_center_crop_equals_the_trainer(size):
    image, changes = converted(noise(*size), size=(16, 16))
    assert (np.asarray(image) == fit(noise(*size), 16, 3)).all()
    assert ("cropped" in changes) == (size[0] != size[1])
    assert ("enlarged" in changes) == (size == (16, 9))
    # Preparing again changes nothing.
    again, changes = converted(image, size=(16, 16))
    assert (again.tobytes(), changes) == (image.tobytes(), ())


def test_center_crop_has_the_shape_of_the_size():
    image = Image.new("RGB", (100, 100), "red")
    image.paste("blue", (0, 25, 100, 75))
    result, changes = converted(image, size=(50, 25), filter="box")
    assert result.size == (50, 25)
    assert result.getcolors() == [(50 * 25, (0, 0, 255))]
    assert changes == ("cropped", "reduced")


def test_wide_crop_adds_black_bars():
    result, _ = converted(Image.new("RGB", (80, 80), "red"), size=(40, 20), crop="center-crop-wide")
    pixels = np.asarray(result)
    assert pixels.shape == (40, 40, 3)
    assert (pixels[10:30] == (255, 0, 0)).all()
    assert not pixels[:10].any()
    assert not pixels[30:].any()


def test_without_crop_the_shape_changes():
    result, changes = converted(noise(40, 20), size=(10, 10), crop="none")
    assert result.size == (10, 10)
    assert changes == ("shape changed", "reduced")


@pytest.mark.parametrize(
    ("mode", "option", "result_mode", "changes"),
    [
        ("L", "rgb", "RGB", ("gray to RGB",)),
        ("RGB", "gray", "L", ("color to gray",)),
        ("RGBA", "rgb", "RGB", ("transparency composited on white",)),
        ("RGB", "rgba", "RGBA", ()),
        ("L", "keep", "L", ()),
        ("RGBA", "keep", "RGBA", ()),
    ],
)
def test_modes(mode, option, result_mode, changes):
    image, changed = converted(noise(8, 8, mode), mode=option)
    assert (image.mode, changed) == (result_mode, changes)


def test_transparent_pixels_become_white():
    image, _ = converted(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), mode="gray")
    assert image.getextrema() == (255, 255)


@pytest.mark.parametrize(("kind", "name"), [("png", "PNG"), ("webp-lossless", "WEBP")])
def test_lossless_formats(kind, name):
    image, _ = converted(noise(16, 16, "RGBA"), mode="keep", file_format=kind)
    assert image.format == name
    assert image.tobytes() == noise(16, 16, "RGBA").tobytes()
