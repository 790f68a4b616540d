"""Holes: as large as asked for, of two values, and functions of the generator alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.masks import box_mask, stroke_mask

KINDS = {"box": box_mask, "strokes": stroke_mask}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(st.integers(4, 48), st.integers(4, 48), st.floats(0.05, 0.9), st.integers(0, 2**31))
def test_a_hole_covers_the_share_that_was_asked_for(kind, height, width, share, seed):
    mask = KINDS[kind](height, width, share, np.random.default_rng(seed))
    assert mask.shape == (height, width)
    assert set(np.unique(mask)) <= {0, 255}
    covered = np.count_nonzero(mask)
    # A box has whole rows and columns; strokes stop at the very pixel.
    room = 0.5 if kind == "strokes" else (height + width) / 2 + 1
    assert abs(covered - share * height * width) <= room


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_many_is_the_share_and_every_place_is_met(kind):
    rng = np.random.default_rng(0)
    masks = np.stack([KINDS[kind](24, 24, 0.25, rng) for _ in range(200)]) / 255
    assert masks.mean() == pytest.approx(0.25, abs=0.01)
    assert masks.any(0).all()
    assert masks.mean(0).max() < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_draws_the_same_hole(kind):
    one, other = (KINDS[kind](32, 32, 0.3, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (KINDS[kind](32, 32, 0.3, np.random.default_rng(6)) != one).any()


def test_a_box_is_one_box():
    mask = box_mask(30, 40, 0.2, np.random.default_rng(1)) > 0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
