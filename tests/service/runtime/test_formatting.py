import numpy as np
import pytest

from service.runtime.formatting import exact


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.7, "0.7"),
        (1.0000001, "1.0000001"),
        (1.0000000000000002, "1.0000000000000002"),
        (np.float32(1.0000001), "1.0000001"),
        (np.float32(0.1), "0.1"),
        (np.int64(1_000_001), "1000001"),
        (-2.5e-7, "-2.5e-07"),
    ],
)
def test_shows_every_digit_that_matters(value, text):
    assert exact(value) == text
