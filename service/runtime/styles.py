"""Style mixing: pictures whose layers follow different sources (StyleGAN, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.runtime.sessions import Array


def mix(rows: Array, columns: Array, layers: Sequence[int]) -> Array:
    """Return the styles of every row with `layers` taken over by every column.

    `rows` ``[R, layers, w_dim]`` and `columns` ``[C, layers, w_dim]`` give ``[R * C, layers,
    w_dim]``, in row-major order: (i, j) has the styles of row i, but those of `layers` of column j.
    """
    mixed = np.repeat(rows, len(columns), axis=0)
    taken_over = list(layers)
    mixed[:, taken_over] = np.tile(columns[:, taken_over], (len(rows), 1, 1))
    return mixed
