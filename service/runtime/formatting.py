"""Numbers in messages."""

from __future__ import annotations

import numpy as np


def exact(value: float | np.generic) -> str:
    """Return a number with all digits that tell it from its neighbors, in its own type.

    A message must not state "expected 0 to 1, got 1" for 1.0000001.
    """
    return str(value).removesuffix(".0")
