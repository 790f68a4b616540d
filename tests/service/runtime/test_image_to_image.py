import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime.image_to_image import (
    ImageMismatch,
    digest_of,
    plan_tiles,
    prepare,
    translate,
)
from service.runtime.images.decoding import DecodedImage
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.image_to_image_models import FILL, REACH, SIDE, blurred, write_translators


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


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_translates_any_size(load, height, width):
    image = noise(height, width)
    output = translate(load("softer"), DecodedImage(image, None), direction="soften")
    np.testing.assert_array_equal(output, blurred(image))


@pytest.mark.parametrize("size", [(513, 700), (1100, 90), (1400, 1300)])
@pytest.mark.parametrize("name", ["softer", "larger"])
def test_tiled_output_equals_single_run(load, name, size):
    """Bit for bit, also at the borders, because tiles overlap by the receptive field."""
    model, image = load(name), noise(*size)
    upload = DecodedImage(image, None)
    assert len(prepare(model, upload).tiling) > 1
    role = model.directions[0] if model.directions else "generator"
    expected = model.run(role, {"image": image[None]})["pixels"][0]
    np.testing.assert_array_equal(translate(model, upload, direction=role), expected)


def test_pads_to_multiple_and_crops(load):
    image = noise(13, 21)
    output = translate(load("colored"), DecodedImage(image, None))
    np.testing.assert_array_equal(output, 255 - image)


def test_keeps_and_scales_alpha(load):
    image, alpha = noise(20, 30), np.full((20, 30), 255, np.uint8)
    alpha[:10] = 0
    same = translate(load("softer"), DecodedImage(image, alpha), direction="invert")
    np.testing.assert_array_equal(same[..., 3], alpha)
    np.testing.assert_array_equal(same[..., :3], 255 - image)
    larger = translate(load("larger"), DecodedImage(image, alpha))
    assert larger.shape == (40, 60, 4)
    # The Lanczos filter overshoots by a few levels near an edge.
    assert (larger[:16, :, 3] <= 5).all()
    assert (larger[24:, :, 3] >= 250).all()


def test_mask_is_applied_and_checked(load):
    filled, softer = load("filled"), load("softer")
    upload = DecodedImage(noise(30, 40), None)
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 4:20] = 255
    output = translate(filled, upload, mask)
    assert (output[3:9, 4:20] == FILL).all()
    np.testing.assert_array_equal(output[mask == 0], upload.pixels[mask == 0])
    with pytest.raises(ImageMismatch, match="40×30"):
        prepare(filled, upload, mask[:-1])
    with pytest.raises(ImageMismatch, match="needs a mask"):
        prepare(filled, upload)
    with pytest.raises(ImageMismatch, match="takes no mask"):
        prepare(softer, upload, mask)


def test_skips_tiles_without_holes(load):
    filled, image = load("filled"), noise(1500, 1300)
    mask = np.zeros(image.shape[:2], np.uint8)
    # In the first tile, and where the last two tiles of a row overlap.
    mask[3:9, 4:20] = mask[1400:1405, 850:870] = 128
    mask[700, 700] = 127
    runs = []

    def run(feeds):
        runs.append(feeds["mask"].max())
        return filled.run("generator", feeds)["pixels"]

    upload = DecodedImage(image, None)
    output = translate(filled, upload, mask, run=run)
    np.testing.assert_array_equal(output[mask == 128], np.broadcast_to(FILL, (196, 3)))
    np.testing.assert_array_equal(output[mask < 128], image[mask < 128])
    assert min(runs) == 128
    assert len(runs) < len(prepare(filled, upload, mask).tiling) / 2
    # Without holes, the output is the input.
    np.testing.assert_array_equal(translate(filled, upload, 0 * mask), image)


def test_pads_images_below_minimum_size(load):
    for size in ((1, 1), (3, 11), (8, 2)):
        image = noise(*size)
        np.testing.assert_array_equal(
            translate(load("reflecting"), DecodedImage(image, None)), 255 - image
        )


def test_resizes_for_fixed_size_model(load):
    flat = np.full((50, 80, 3), 40, np.uint8)
    prepared = prepare(load("fixed"), DecodedImage(flat, None))
    assert prepared.original_size == (80, 50)
    output = translate(load("fixed"), DecodedImage(flat, None))
    assert output.shape == (SIDE, SIDE, 3)
    assert (output == 215).all()


@pytest.mark.parametrize("size", [(12, 16), (5, 3), (12, 40), (37, 41)])
def test_upscaler_of_fixed_size_runs_in_tiles(load, size):
    """The output equals that of the same model without a fixed size, at inner edges too."""
    image = noise(*size)
    prepared = prepare(load("larger-fixed"), DecodedImage(image, None))
    assert prepared.tiling.shape == (12, 16)
    assert prepared.original_size is None
    assert prepared.parameters == {"tiles": {"count": len(prepared.tiling), "size": (16, 12)}}
    output = translate(load("larger-fixed"), DecodedImage(image, None))
    assert output.shape == (2 * size[0], 2 * size[1], 3)
    expected = translate(load("larger"), DecodedImage(image, None))
    # At the lower and right border, the tile continues with the reflected image.
    inner = (slice(0, 2 * size[0] - 2 * REACH), slice(0, 2 * size[1] - 2 * REACH))
    np.testing.assert_array_equal(output[inner], expected[inner])


def test_upscaler_of_fixed_size_hides_seams_without_a_receptive_field(load):
    spec = load("larger-fixed").manifest.input.model_copy(update={"reach": None})
    tiling = plan_tiles(spec, 100, 50)
    assert tiling.shape == (12, 16)
    assert tiling.tops[1] - tiling.tops[0] <= 6
    assert (tiling.tops[-1] + 12, tiling.lefts[-1] + 16) == (100, 50)


def test_luma_model_carries_color_over(load):
    flat = np.full((20, 30, 3), (200, 40, 90), np.uint8)
    alpha = np.full((20, 30), 255, np.uint8)
    output = translate(load("larger-luma"), DecodedImage(flat, None))
    assert output.shape == (40, 60, 3)
    # Blurring and upscaling a flat image changes it at the border only.
    assert np.abs(output[8:-8, 8:-8].astype(int) - flat[0, 0]).max() <= 2
    assert prepare(load("larger-luma"), DecodedImage(flat, None)).parameters == {"color": "luma"}
    assert translate(load("larger-luma"), DecodedImage(flat, alpha)).shape == (40, 60, 4)
    gray = np.full((20, 30, 3), 77, np.uint8)
    assert translate(load("larger-luma"), DecodedImage(gray, None)).shape == (40, 60, 1)


def test_gray_stays_gray(load):
    gray = noise(9, 11)[..., :1].repeat(3, 2)
    output = translate(load("tinting"), DecodedImage(gray, None))
    assert output.shape == (18, 22, 3)
    assert (output == output[..., :1]).all()
    assert prepare(load("tinting"), DecodedImage(gray, None)).parameters == {"color": "gray"}
    mask = np.zeros((9, 11), np.uint8)
    mask[2:5, 3:6] = 255
    filled = translate(load("filled"), DecodedImage(gray, None), mask)
    assert (filled == filled[..., :1]).all()
    np.testing.assert_array_equal(filled[mask == 0], gray[mask == 0])
    # One colored pixel makes it a color image.
    color = gray.copy()
    color[0, 0] = (255, 0, 0)
    output = translate(load("tinting"), DecodedImage(color, None))
    np.testing.assert_array_equal(output[::2, ::2, 0], color[..., 0] // 2)
    assert prepare(load("tinting"), DecodedImage(color, None)).parameters == {}


def test_digest_covers_size_pixels_and_alpha():
    image = noise(4, 6)
    opaque = np.full((4, 6), 255, np.uint8)
    digests = {
        digest_of(DecodedImage(image, None)),
        digest_of(DecodedImage(image, opaque)),
        digest_of(DecodedImage(image.reshape(6, 4, 3), None)),
    }
    assert len(digests) == 3
    assert digest_of(DecodedImage(image.copy(), None)) in digests
