import itertools

import numpy as np
import pytest
from PIL import Image

from tests.support.inception_weights import random_images
from training.evaluation.errors import QualityError
from training.evaluation.metrics.pairs import MAX_PSNR, compare_pairs, open_pairs


def test_equal_images_are_perfect(small_network):
    pixels = random_images()[0][:4]
    values = compare_pairs(pixels, pixels, small_network)
    assert values["psnr"].tolist() == [MAX_PSNR] * 4
    assert values["ssim"] == pytest.approx(1)
    assert values["feature_distance"] == pytest.approx(0, abs=1e-6)
    assert values["error"].tolist() == [0] * 4


def test_psnr_of_constant_difference(small_network):
    gray = np.full((2, 32, 32, 1), 100, np.uint8)
    values = compare_pairs(gray, gray + 10, small_network)
    assert values["psnr"] == pytest.approx(20 * np.log10(255 / 10))
    assert values["error"] == pytest.approx(10 / 255)


def test_ssim_of_uniform_images(small_network):
    # Only the luminance term is left: (2ab + c) / (a² + b² + c), c = 2.55².
    values = compare_pairs(
        np.full((1, 32, 32, 1), 100, np.uint8),
        np.full((1, 32, 32, 1), 120, np.uint8),
        small_network,
    )
    expected = (24_000 + 6.5025) / (10_000 + 14_400 + 6.5025)
    assert values["ssim"] == pytest.approx(expected, abs=1e-4)


def test_noise_is_worse_in_every_metric(small_network):
    pixels = random_images()[0][:8]
    noise = np.random.default_rng(0).normal(0, 1, pixels.shape)
    levels = [
        compare_pairs((pixels + noise * s).clip(0, 255).astype(np.uint8), pixels, small_network)
        for s in (5, 20, 60)
    ]
    for less, more in itertools.pairwise(levels):
        assert less["psnr"].mean() > more["psnr"].mean()
        assert less["ssim"].mean() > more["ssim"].mean()
        assert less["feature_distance"].mean() < more["feature_distance"].mean()
        assert less["error"].mean() < more["error"].mean()


def test_ssim_of_images_smaller_than_the_window(small_network):
    tiny = random_images()[0][:2, :8, :8]
    assert compare_pairs(tiny, tiny, small_network)["ssim"] == pytest.approx(1)


def test_rejects_different_shapes(small_network):
    pixels = random_images()[0][:2]
    with pytest.raises(QualityError, match="equal sizes"):
        compare_pairs(pixels, pixels[:1], small_network)


def test_corrupt_image_of_a_pair_is_named(tmp_path):
    for folder in ("generated", "targets"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "1.png")
    (tmp_path / "targets" / "1.png").write_bytes(b"no image")
    with pytest.raises(QualityError, match=r"1\.png cannot be read"):
        open_pairs(tmp_path / "generated", tmp_path / "targets")
