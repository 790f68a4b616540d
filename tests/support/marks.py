"""Marks for parametrized tests."""

from collections.abc import Iterable

import pytest


def slow_except(fast: object, values: Iterable[object]) -> list:
    """Return parameters that are all marked slow except the one that equals `fast`.

    Tuples are the values of several arguments.
    """
    return [
        value
        if value == fast
        else pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow
        )
        for value in values
    ]
