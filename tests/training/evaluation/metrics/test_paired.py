import itertools

import numpy as np
import pytest

from tests.support.inception_weights import drawn_pictures
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import open_network
from training.evaluation.metrics.paired import MOST_PSNR, compare_pairs


@pytest.fixture(scope="module")
def network():
    return open_network()


def test_equal_pictures_are_perfect(network):
    pixels = drawn_pictures()[0][:4]
    found = compare_pairs(pixels, pixels, network)
    assert found.psnr.tolist() == [MOST_PSNR] * 4
    assert found.ssim == pytest.approx(1)
    assert found.feature_distance == pytest.approx(0, abs=1e-6)


def test_a_shift_of_one_value_has_the_known_psnr(network):
    grey = np.full((2, 32, 32, 1), 100, np.uint8)
    found = compare_pairs(grey, grey + 10, network)
    assert found.psnr == pytest.approx(20 * np.log10(255 / 10))


def test_ssim_is_the_known_one_for_flat_pictures(network):
    # Without structure only the luminance term is left: (2ab + c) / (a² + b² + c), c = 2.55².
    found = compare_pairs(
        np.full((1, 32, 32, 1), 100, np.uint8), np.full((1, 32, 32, 1), 120, np.uint8), network
    )
    assert found.ssim == pytest.approx((24_000 + 6.5025) / (10_000 + 14_400 + 6.5025), abs=1e-4)


def test_more_noise_is_worse_by_every_figure(network):
    pixels = drawn_pictures()[0][:8]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, pixels.shape)
    steps = [
        compare_pairs((pixels + noise * s).clip(0, 255).astype(np.uint8), pixels, network)
        for s in (5, 20, 60)
    ]
    for better, worse in itertools.pairwise(steps):
        assert better.psnr.mean() > worse.psnr.mean()
        assert better.ssim.mean() > worse.ssim.mean()
        assert better.feature_distance.mean() < worse.feature_distance.mean()


def test_small_pictures_have_an_ssim_too(network):
    tiny = drawn_pictures()[0][:2, :8, :8]
    assert compare_pairs(tiny, tiny, network).ssim == pytest.approx(1)


def test_pictures_of_other_sizes_are_refused(network):
    pixels = drawn_pictures()[0][:2]
    with pytest.raises(QualityError, match="equal sizes"):
        compare_pairs(pixels, pixels[:1], network)
