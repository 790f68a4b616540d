import pytest
import torch

from tests.support.images import drawn_digits
from training.data.images import ImageData
from training.monitoring.diversity import Diversity, reals_to_compare


@pytest.fixture(scope="module")
def reals():
    """Real images without duplicates: ``[512, 1, 32, 32]`` in [-1, 1]."""
    return torch.rand(512, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_real_images_have_diversity_1_and_no_duplicates(reals):
    numbers = Diversity(reals, 64).measure(reals[100:164])
    assert numbers["diversity"] == pytest.approx(1, abs=0.05)
    assert numbers["duplicates"] == 0


def test_constant_generator_has_diversity_0_and_only_duplicates(reals):
    numbers = Diversity(reals, 64).measure(reals[:1].expand(64, -1, -1, -1))
    assert numbers["diversity"] == pytest.approx(0, abs=1e-6)
    assert numbers["duplicates"] == 1


def test_few_modes_are_diverse_but_all_duplicates(reals):
    numbers = Diversity(reals, 64).measure(reals[:8].repeat(8, 1, 1, 1))
    assert numbers["diversity"] > 0.8
    assert numbers["duplicates"] == 1


def test_duplicates_among_real_images_do_not_count(reals):
    repeated = torch.cat([reals[:32], reals[:32]]).repeat(4, 1, 1, 1)
    assert Diversity(repeated, 64).measure(repeated[:64])["duplicates"] == 0


def test_diversity_is_relative_to_real_images(reals):
    faint = Diversity(reals * 0.01, 64).measure(reals[:64] * 0.01)
    assert faint["diversity"] == pytest.approx(1, abs=0.05)


def test_change_is_distance_from_previous_images(reals):
    diversity = Diversity(reals, 64)
    assert "change" not in diversity.measure(reals[:64])
    assert diversity.measure(reals[:64])["change"] == 0
    assert diversity.measure(reals[64:128])["change"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("count", "stored", "channels"), [(40, 28, 1), (2000, 31, 3)])
def test_crops_real_images_and_accepts_small_data_sets(count, stored, channels):
    pixels = drawn_digits(count, stored)[0][..., None].repeat(channels, -1)
    reals = reals_to_compare(ImageData(pixels, None, ()), 28)
    assert reals.shape == (min(count, 1024), channels, 28, 28)
    assert (reals.min(), reals.max()) == (-1, 1)
    assert Diversity(reals, 64).measure(reals[:64])["diversity"] > 0.5


def test_identical_real_images_have_diversity_0():
    flat = torch.zeros(64, 3, 32, 32)
    assert Diversity(flat, 64).measure(flat)["diversity"] == 0
