"""Random masks: their area, values and determinism."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.masks import box_mask, stroke_mask

MASKS = {"box": box_mask, "strokes": stroke_mask}


@pytest.mark.parametrize("kind", MASKS)
@settings(max_examples=40, deadline=None)
@given(st.integers(4, 48), st.integers(4, 48), st.floats(0.05, 0.9), st.integers(0, 2**31))
def test_mask_covers_requested_share(kind, height, width, share, seed):
    mask = MASKS[kind](height, width, share, np.random.default_rng(seed))
    assert mask.shape == (height, width)
    assert set(np.unique(mask)) <= {0, 255}
    covered = np.count_nonzero(mask)
    # A box has whole rows and columns; strokes are exact to the pixel.
    tolerance = 0.5 if kind == "strokes" else (height + width) / 2 + 1
    assert abs(covered - share * height * width) <= tolerance


@pytest.mark.parametrize("kind", MASKS)
def test_masks_cover_all_positions(kind):
    rng = np.random.default_rng(0)
    masks = np.stack([MASKS[kind](24, 24, 0.25, rng) for _ in range(200)]) / 255
    assert masks.mean() == pytest.approx(0.25, abs=0.01)
    assert masks.any(0).all()
    assert masks.mean(0).max() < 0.6


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_deterministic(kind):
    first, second = (MASKS[kind](32, 32, 0.3, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (MASKS[kind](32, 32, 0.3, np.random.default_rng(6)) != first).any()


def test_box_mask_is_one_rectangle():
    mask = box_mask(30, 40, 0.2, np.random.default_rng(1)) > 0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
