"""Pictures of any size through models that make pictures of pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime.image_to_image import translate
from service.runtime.images.decoding import DecodedImage
from service.runtime.images.image_to_image import ImageMismatch, digest_of, prepare
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.image_to_image_models import FILL, SIDE, blurred, write_translators


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    models = tmp_path_factory.mktemp("translators")
    write_translators(models)
    loaded = {}

    def model(name):
        if name not in loaded:
            loaded[name] = Model(models / name / "1", Provider.CPU, ExecutionPlan(1, 1, 8))
        return loaded[name]

    return model


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_a_picture_of_any_size_is_made_whole(load, height, width):
    image = picture(height, width)
    made = translate(load("softer"), DecodedImage(image, None), direction="soften")
    np.testing.assert_array_equal(made, blurred(image))


@pytest.mark.parametrize("size", [(513, 700), (1100, 90), (1400, 1300)])
@pytest.mark.parametrize("name", ["softer", "larger"])
def test_tiles_make_the_picture_that_one_run_makes(load, name, size):
    """To the last bit, at the borders too: the tiles know as much as they need."""
    model, image = load(name), picture(*size)
    upload = DecodedImage(image, None)
    assert len(prepare(model, upload).tiling) > 1
    role = model.directions[0] if model.directions else "generator"
    whole = model.run(role, {"image": image[None]})["pixels"][0]
    np.testing.assert_array_equal(translate(model, upload, direction=role), whole)


def test_what_a_model_needs_multiples_of_is_mirrored_and_cut_off_again(load):
    image = picture(13, 21)
    made = translate(load("coloured"), DecodedImage(image, None))
    np.testing.assert_array_equal(made, 255 - image)


def test_alpha_is_kept_and_enlarged(load):
    image, alpha = picture(20, 30), np.full((20, 30), 255, np.uint8)
    alpha[:10] = 0
    same = translate(load("softer"), DecodedImage(image, alpha), direction="invert")
    np.testing.assert_array_equal(same[..., 3], alpha)
    np.testing.assert_array_equal(same[..., :3], 255 - image)
    larger = translate(load("larger"), DecodedImage(image, alpha))
    assert larger.shape == (40, 60, 4)
    # Lanczos' filter overshoots by a level or two beside an edge.
    assert (larger[:16, :, 3] <= 5).all()
    assert (larger[24:, :, 3] >= 250).all()


def test_a_mask_has_the_size_of_its_picture_and_goes_where_it_belongs(load):
    filled, softer = load("filled"), load("softer")
    upload = DecodedImage(picture(30, 40), None)
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 4:20] = 255
    made = translate(filled, upload, mask)
    assert (made[3:9, 4:20] == FILL).all()
    np.testing.assert_array_equal(made[mask == 0], upload.pixels[mask == 0])
    with pytest.raises(ImageMismatch, match="40×30"):
        prepare(filled, upload, mask[:-1])
    with pytest.raises(ImageMismatch, match="needs a mask"):
        prepare(filled, upload)
    with pytest.raises(ImageMismatch, match="takes no mask"):
        prepare(softer, upload, mask)


def test_tiles_without_a_hole_are_not_run(load):
    filled, image = load("filled"), picture(1500, 1300)
    mask = np.zeros(image.shape[:2], np.uint8)
    # In the first tile of all, and where the last two of a row meet.
    mask[3:9, 4:20] = mask[1400:1405, 850:870] = 128
    mask[700, 700] = 127
    runs = []

    def run(feeds):
        runs.append(feeds["mask"].max())
        return filled.run("generator", feeds)["pixels"]

    upload = DecodedImage(image, None)
    made = translate(filled, upload, mask, run=run)
    np.testing.assert_array_equal(made[mask == 128], np.broadcast_to(FILL, (196, 3)))
    np.testing.assert_array_equal(made[mask < 128], image[mask < 128])
    assert min(runs) == 128
    assert len(runs) < len(prepare(filled, upload, mask).tiling) / 2
    # What has no hole at all comes back.
    np.testing.assert_array_equal(translate(filled, upload, 0 * mask), image)


def test_what_is_smaller_than_a_model_takes_is_filled_up(load):
    for size in ((1, 1), (3, 11), (8, 2)):
        image = picture(*size)
        np.testing.assert_array_equal(
            translate(load("reflecting"), DecodedImage(image, None)), 255 - image
        )


def test_a_model_of_one_size_gets_that_size(load):
    flat = np.full((50, 80, 3), 40, np.uint8)
    prepared = prepare(load("fixed"), DecodedImage(flat, None))
    assert prepared.resized == (80, 50)
    made = translate(load("fixed"), DecodedImage(flat, None))
    assert made.shape == (SIDE, SIDE, 3)
    assert (made == 215).all()


def test_a_digest_is_of_what_was_understood():
    image = picture(4, 6)
    opaque = np.full((4, 6), 255, np.uint8)
    digests = {
        digest_of(DecodedImage(image, None)),
        digest_of(DecodedImage(image, opaque)),
        digest_of(DecodedImage(image.reshape(6, 4, 3), None)),
    }
    assert len(digests) == 3
    assert digest_of(DecodedImage(image.copy(), None)) in digests
