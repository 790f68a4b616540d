import hashlib

import numpy as np
import pytest

from service.runtime.latent import seeds as latents


def test_normal_latents_match_published_seeds():
    expected = np.random.RandomState(85).randn(1, 512).astype(np.float32)
    np.testing.assert_array_equal(latents.draw([85], 512), expected)


def test_truncated_latents_match_biggan_seeds():
    stats = pytest.importorskip("scipy.stats", reason="needs scipy as the reference")
    seeds = [*range(200), latents.MAX_SEED]
    expected = [
        stats.truncnorm.rvs(-2, 2, size=(1, 140), random_state=np.random.RandomState(seed))[0]
        for seed in seeds
    ]
    z = latents.draw(seeds, 140, "truncated-normal")
    np.testing.assert_array_equal(z, np.array(expected, np.float32))


def test_truncated_latents_match_recorded_scipy_values():
    """``truncnorm.rvs(-2, 2, size=(1, 128), random_state=RandomState(s))`` of scipy 1.17.1."""
    z = latents.draw([0, 7, latents.MAX_SEED], 128, "truncated-normal")
    expected = [
        [0.11705679446458817, 0.5399904847145081, 0.24840021133422852, -0.49414125084877014],
        [-1.3071177005767822, 0.7295992374420166, -0.14789801836013794, 0.7838638424873352],
        [-1.195530652999878, 1.246008276939392, 0.7583662271499634, 0.6742980480194092],
    ]
    np.testing.assert_array_equal(z[:, [0, 1, 2, 127]], np.array(expected, np.float32))
    long_row = latents.draw([0], 12_800, "truncated-normal")
    assert hashlib.sha256(long_row.tobytes()).hexdigest() == (
        "39e99d1a8bd98f798039f7e75ef73d332c3ed3c19c6aae26e7c3ad72172a9174"
    )


def test_truncated_latents_span_two_standard_deviations():
    z = latents.draw(range(500), 128, "truncated-normal")
    assert 1.99 < np.abs(z).max() <= 2
    assert abs(z.mean()) < 0.01
    # The standard deviation of the normal distribution truncated at ±2.
    assert z.std() == pytest.approx(0.8796, abs=0.005)


@pytest.mark.parametrize("distribution", ["normal", "truncated-normal", "uniform"])
def test_rows_do_not_depend_on_batch(distribution):
    rows = latents.draw([7, 0, latents.MAX_SEED], 16, distribution)
    assert rows.shape == (3, 16)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[1:2], latents.draw([0], 16, distribution))


@pytest.mark.parametrize("distribution", ["normal", "truncated-normal", "uniform"])
@pytest.mark.parametrize("seed", [-1, latents.MAX_SEED + 1])
def test_rejects_seed_out_of_range(seed, distribution):
    with pytest.raises(ValueError, match="Seed must be between"):
        latents.draw([seed], 4, distribution)
