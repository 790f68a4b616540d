import pytest
import torch

from tests.support.images import drawn_digits
from training.data.images import ImageData
from training.monitoring.diversity import Diversity, reals_to_compare


@pytest.fixture(scope="module")
def noise():
    """Pictures of which no two are alike, for real ones."""
    return torch.rand(512, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_real_pictures_are_as_diverse_as_real_pictures(noise):
    figures = Diversity(noise, 64).measure(noise[100:164])
    assert figures["diversity"] == pytest.approx(1, abs=0.05)
    assert figures["duplicates"] == 0


def test_one_picture_for_every_latent_has_no_diversity_and_is_all_twins(noise):
    figures = Diversity(noise, 64).measure(noise[:1].expand(64, -1, -1, -1))
    assert figures["diversity"] == pytest.approx(0, abs=1e-6)
    assert figures["duplicates"] == 1


def test_a_few_modes_are_diverse_and_yet_all_twins(noise):
    figures = Diversity(noise, 64).measure(noise[:8].repeat(8, 1, 1, 1))
    assert figures["diversity"] > 0.8
    assert figures["duplicates"] == 1


def test_twins_that_real_pictures_have_as_well_do_not_count(noise):
    reals = torch.cat([noise[:32], noise[:32]]).repeat(4, 1, 1, 1)
    assert Diversity(reals, 64).measure(reals[:64])["duplicates"] == 0


def test_the_unit_is_that_of_the_real_pictures(noise):
    faint = Diversity(noise * 0.01, 64).measure(noise[:64] * 0.01)
    assert faint["diversity"] == pytest.approx(1, abs=0.05)


def test_change_is_the_way_from_the_pictures_before(noise):
    diversity = Diversity(noise, 64)
    assert "change" not in diversity.measure(noise[:64])
    assert diversity.measure(noise[:64])["change"] == 0
    assert diversity.measure(noise[64:128])["change"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("count", "stored", "channels"), [(40, 28, 1), (2000, 31, 3)])
def test_real_pictures_are_taken_as_they_come_small_sets_and_margins_too(count, stored, channels):
    pixels = drawn_digits(count, stored)[0][..., None].repeat(channels, -1)
    reals = reals_to_compare(ImageData(pixels, None, ()), 28)
    assert reals.shape == (min(count, 1024), channels, 28, 28)
    assert (reals.min(), reals.max()) == (-1, 1)
    assert Diversity(reals, 64).measure(reals[:64])["diversity"] > 0.5


def test_pictures_that_are_all_the_same_are_no_error():
    flat = torch.zeros(64, 3, 32, 32)
    assert Diversity(flat, 64).measure(flat)["diversity"] == 0
