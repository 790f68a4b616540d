"""Latents from seeds, with the sampling rules of published generators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Distribution of the latents. The truncated normal is limited to two standard deviations, the
# uniform distribution to [-1, 1].
Distribution = Literal["normal", "truncated-normal", "uniform"]

# The largest seed that numpy.random.RandomState accepts.
MAX_SEED = 2**32 - 1

_NORMAL = NormalDist()
_BELOW = _NORMAL.cdf(-2)
_BETWEEN = _NORMAL.cdf(2) - _BELOW


def draw(
    seeds: Sequence[int], dimension: int, distribution: Distribution = "normal"
) -> NDArray[np.float32]:
    """Return one latent per seed: ``[N, dimension] float32``.

    The latent of seed s is, by distribution:

    - normal: ``RandomState(s).randn(1, dimension)``, as in NVIDIA's generators
    - truncated-normal: ``scipy.stats.truncnorm.rvs(-2, 2, size=(1, dimension),
      random_state=RandomState(s))``, as in BigGAN's published samples
    - uniform: ``RandomState(s).uniform(-1, 1, (1, dimension))``

    Raises ValueError for a seed outside 0 to 2³² - 1.
    """
    rows = np.empty((len(seeds), dimension), np.float32)
    state = _states.state
    for row, seed in zip(rows, seeds, strict=True):
        state.seed(seed)
        row[:] = _DRAWS[distribution](state, dimension)
    return rows


def _truncated(state: np.random.RandomState, count: int) -> NDArray[np.float64]:
    """Sample the normal distribution truncated to [-2, 2] by inverting its CDF."""
    uniform = _BELOW + _BETWEEN * state.uniform(size=count)
    # Wichura's AS241, accurate to 16 digits, implemented in C: about 0.2 µs per call.
    return np.fromiter(map(_NORMAL.inv_cdf, uniform.tolist()), np.float64, count)


class _States(threading.local):
    """One RandomState per thread, reseeded for each row.

    Creating a RandomState takes a hundred times as long, because it gathers entropy first.
    """

    def __init__(self) -> None:
        self.state = np.random.RandomState(0)


_states = _States()
_DRAWS: dict[Distribution, Callable[[np.random.RandomState, int], NDArray[np.float64]]] = {
    "normal": lambda state, count: state.randn(count),
    "truncated-normal": _truncated,
    "uniform": lambda state, count: state.uniform(-1, 1, count),
}
