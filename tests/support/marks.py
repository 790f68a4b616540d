"""Marks for parametrized tests, and for tests that need a certain machine."""

from collections.abc import Callable, Iterable

import pytest

from service.runtime.onnx.sessions import cuda_unavailable_reason


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


def skip_without_cuda(test: Callable) -> Callable:
    """Skip a test, which has the mark `cuda`, on a machine without a CUDA device."""
    reason = cuda_unavailable_reason()
    return pytest.mark.skipif(reason is not None, reason=f"no CUDA: {reason}")(test)
