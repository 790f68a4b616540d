import numpy as np
import pytest

from service.runtime import latents


def test_a_seed_gives_the_latent_that_published_seeds_give():
    expected = np.random.RandomState(85).randn(1, 512).astype(np.float32)
    np.testing.assert_array_equal(latents.draw([85], 512), expected)


def test_the_rows_are_those_of_the_seeds_one_by_one():
    rows = latents.draw([7, 0, latents.MAX_SEED], 16)
    assert rows.shape == (3, 16)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[1:2], latents.draw([0], 16))


@pytest.mark.parametrize("seed", [-1, latents.MAX_SEED + 1])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="Seed must be between"):
        latents.draw([seed], 4)
