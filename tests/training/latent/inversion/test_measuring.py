import numpy as np

from training.latent.inversion.measuring import _nearest_errors
from training.latent.inversion.passes import psnr, squared_errors


def test_the_nearest_candidate_is_that_with_the_smallest_error() -> None:
    rng = np.random.default_rng(0)
    candidates = rng.integers(0, 256, (600, 4, 4, 3), np.uint8)
    targets = np.concatenate([candidates[[3, 599]], rng.integers(0, 256, (5, 4, 4, 3), np.uint8)])
    expected = [squared_errors(candidates, target[None]).min() for target in targets]
    errors = _nearest_errors(targets, candidates)
    np.testing.assert_allclose(errors, expected)
    assert errors[0] == errors[1] == 0


def test_psnr_of_equal_images_is_finite() -> None:
    assert psnr(np.array([0.0, 255.0**2])).tolist() == [psnr(np.array([0.25]))[0], 0.0]
