"""The command that samples the small models of tests/support/drawn_models.py."""

import functools

import pytest

from tests.support.sampling import run_sample


@pytest.fixture(scope="session")
def run(drawn_repository):
    """Run `ganymede sample` with those models: `run(model, out, *flags, code=0)`."""
    return functools.partial(run_sample, drawn_repository)
