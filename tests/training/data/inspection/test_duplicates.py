import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from training.data.inspection.duplicates import appearance, exact_groups, near_groups


def scene(seed=0, side=128) -> Image.Image:
    """A smooth random image, like a photograph without detail."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def as_jpeg(image):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=60)
    return Image.open(out).convert("RGB")


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        lambda image: image.resize((64, 64)),
        lambda image: image.resize((300, 300)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.03),
    ],
    ids=["jpeg", "smaller", "larger", "brighter"],
)
def test_changed_copies_are_near_duplicates(change):
    images = [appearance(image) for image in (scene(1), scene(2), change(scene(2)))]
    assert near_groups(images) == [[1, 2]]
    assert exact_groups(images) == []


@pytest.mark.parametrize(
    "other",
    [
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: Image.merge("RGB", image.split()[::-1]),
        lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    ],
    ids=["flipped", "other colors", "darker"],
)
def test_different_images_are_no_duplicates(other):
    assert near_groups([appearance(scene()), appearance(other(scene()))]) == []


def test_exact_duplicates_are_equal_in_pixels_not_in_files():
    gray = scene().convert("L")
    images = [scene(1), gray, gray.convert("RGB"), gray.convert("RGBA"), scene(1)]
    appearances = [appearance(image) for image in images]
    assert exact_groups(appearances) == [[0, 4], [1, 2, 3]]
    assert near_groups(appearances) == []


def test_hidden_colors_and_shape():
    red, blue = (Image.new("RGBA", (4, 2), (*color, 0)) for color in [(255, 0, 0), (0, 0, 255)])
    turned = Image.new("RGBA", (2, 4), (0, 0, 0, 0))
    assert exact_groups([appearance(image) for image in (red, blue, turned)]) == [[0, 1]]


def test_single_colors_have_no_near_duplicates():
    images = [appearance(Image.new("L", (32, 32), level)) for level in range(100, 104)]
    assert near_groups(images) == exact_groups(images) == []
    assert {image.hash for image in images} == {None}


def test_finds_every_copy_among_many_images():
    count, copies = 2800, 40
    images = [appearance(scene(seed, 96)) for seed in range(count)]
    images += [appearance(as_jpeg(scene(seed * 70, 96))) for seed in range(copies)]
    expected = {(seed * 70, count + seed) for seed in range(copies)}
    assert expected <= {tuple(group) for group in near_groups(images)}
