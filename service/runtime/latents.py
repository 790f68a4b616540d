"""Latents from seeds, by the rule that published seeds use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The largest seed that numpy.random.RandomState takes.
MAX_SEED = 2**32 - 1


def draw(seeds: Sequence[int], dimension: int) -> NDArray[np.float32]:
    """Return the latents ``[len(seeds), dimension] float32`` of `seeds`.

    The latent of seed s is ``RandomState(s).randn(1, dimension)``, as in NVIDIA's generators.
    Raises ValueError for a seed outside 0 to 2³² - 1.
    """
    rows = np.empty((len(seeds), dimension), np.float32)
    # One state, seeded anew for each row: a new one takes a hundred times as long, for the entropy
    # that it gathers and throws away.
    state = np.random.RandomState(0)
    for row, seed in zip(rows, seeds, strict=True):
        state.seed(seed)
        row[:] = state.randn(dimension)
    return rows
