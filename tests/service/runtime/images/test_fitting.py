"""Images of any size in the size of a model's images."""

import numpy as np
import pytest

from service.runtime.images.decoding import DecodedImage
from service.runtime.images.fitting import fit_image
from service.runtime.models.parts.outputs import ImageSpec

RNG = np.random.default_rng(0)


def decoded(height, width, alpha=None):
    pixels = RNG.integers(0, 256, (height, width, 3), np.uint8)
    return DecodedImage(
        pixels, None if alpha is None else np.full((height, width), alpha, np.uint8)
    )


def spec(height=8, width=8, channels=3):
    return ImageSpec(height=height, width=width, channels=channels)


def test_an_image_of_the_models_size_is_unchanged():
    image = decoded(8, 8)
    fitted = fit_image(image, spec())
    np.testing.assert_array_equal(fitted.pixels, image.pixels)
    assert fitted.changes == {}


@pytest.mark.parametrize(
    ("size", "target", "crop"),
    [
        ((8, 20), (8, 8), [6, 0, 8, 8]),
        ((30, 10), (8, 8), [0, 10, 10, 10]),
        ((20, 20), (8, 16), [0, 5, 20, 10]),
        ((1, 1), (8, 16), None),
        ((1, 1000), (8, 8), [499, 0, 1, 1]),
        ((16, 16), (8, 8), None),
    ],
)
def test_crops_around_the_center_to_the_aspect_ratio(size, target, crop):
    fitted = fit_image(decoded(*size), spec(*target))
    assert fitted.pixels.shape == (*target, 3)
    assert fitted.changes.get("crop") == crop
    if crop is not None and crop[2:] != [target[1], target[0]]:
        assert fitted.changes["resized_input"]["from"] == crop[2:]


def test_the_center_stays_where_it_is():
    image = decoded(8, 20)
    np.testing.assert_array_equal(fit_image(image, spec()).pixels, image.pixels[:, 6:14])


def test_transparent_pixels_become_white_unless_the_model_has_alpha():
    image = decoded(8, 8, alpha=0)
    fitted = fit_image(image, spec())
    assert (fitted.pixels == 255).all()
    assert fitted.changes == {"background": "white"}
    kept = fit_image(image, spec(channels=4))
    np.testing.assert_array_equal(kept.pixels, np.dstack([image.pixels, image.alpha]))
    assert kept.changes == {}
    opaque = fit_image(decoded(8, 8, alpha=255), spec())
    assert opaque.changes == {}
    assert (fit_image(decoded(8, 8), spec(channels=4)).pixels[..., 3] == 255).all()


def test_what_is_cut_off_is_no_change():
    image = decoded(8, 20, alpha=255)
    image.alpha[:, :6] = 0
    fitted = fit_image(image, spec())
    np.testing.assert_array_equal(fitted.pixels, image.pixels[:, 6:14])
    assert fitted.changes == {"crop": [6, 0, 8, 8]}


def test_colors_become_gray_for_a_model_of_gray_images():
    fitted = fit_image(decoded(8, 8), spec(channels=1))
    assert fitted.pixels.shape == (8, 8, 1)
    assert fitted.changes == {"color": "gray"}
    gray = DecodedImage(np.repeat(RNG.integers(0, 256, (8, 8, 1), np.uint8), 3, 2), None)
    fitted = fit_image(gray, spec(channels=1))
    np.testing.assert_array_equal(fitted.pixels[..., 0], gray.pixels[..., 0])
    assert fitted.changes == {}
