import io

import numpy as np
import pytest
from PIL import Image

from service.runtime.images.decoding import DecodedImage, ImageDecodeError, ImageErrorKind
from service.runtime.images.masks import MaskInput, decode_transparent_mask, opaque_in

PIXELS = np.full((2, 3, 3), 200, np.uint8)
ALPHA = np.array([[0, 1, 255], [255, 0, 128]], np.uint8)
AREA = np.where(ALPHA == 0, 255, 0)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def test_fully_transparent_pixels_are_the_area():
    file = png(Image.fromarray(np.dstack([PIXELS, ALPHA])))
    np.testing.assert_array_equal(decode_transparent_mask(file, max_pixels=6), AREA)
    image = DecodedImage(PIXELS, None)
    mask = MaskInput(file, transparent=True).decode(image, 6, ("PNG",))
    np.testing.assert_array_equal(mask, AREA)


def test_transparency_of_the_image_is_the_mask():
    image = DecodedImage(PIXELS, ALPHA)
    mask = MaskInput(transparent=True).decode(image, 6, None)
    np.testing.assert_array_equal(mask, AREA)
    assert MaskInput().decode(image, 6, None) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_rejects_mask_without_transparency(mode):
    file = png(Image.fromarray(PIXELS).convert(mode))
    with pytest.raises(ImageDecodeError, match="transparent") as caught:
        decode_transparent_mask(file, max_pixels=6)
    assert caught.value.kind is ImageErrorKind.MASK_OPAQUE


def test_rejects_damaged_mask():
    with pytest.raises(ImageDecodeError) as caught:
        decode_transparent_mask(b"\x89PNG", max_pixels=6)
    assert caught.value.kind is ImageErrorKind.MASK_NOT_AN_IMAGE


def test_filled_area_is_opaque():
    image = opaque_in(DecodedImage(PIXELS, ALPHA), AREA.astype(np.uint8))
    np.testing.assert_array_equal(image.alpha, [[255, 1, 255], [255, 255, 128]])
    binary = np.where(ALPHA < 255, 0, 255).astype(np.uint8)
    assert opaque_in(DecodedImage(PIXELS, binary), 255 - binary).alpha is None
