import numpy as np
import pytest

from service.runtime.formatting import duration, exact, format_size


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (245, "4:05"),
        (3599.4, "59:59"),
        (3600, "1 h 0 min"),
        (11_550, "3 h 12 min"),
        (86_399, "1 d 0 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_duration_has_the_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")],
)
def test_size_has_a_unit(size, text):
    assert format_size(size) == text
