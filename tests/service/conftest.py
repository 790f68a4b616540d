"""Small models built of ONNX nodes, a server with them, and the command that samples them."""

import contextlib
import functools
from pathlib import Path

import pytest

from tests.support.drawn_models import write_models
from tests.support.sampling import run_sample
from tests.support.servers import Server, serving


@pytest.fixture(scope="session")
def drawn_repository(tmp_path_factory) -> Path:
    """The models of tests/support/drawn_models.py."""
    models = tmp_path_factory.mktemp("drawn")
    write_models(models)
    return models


@pytest.fixture(scope="session")
def drawn_server(drawn_repository) -> Server:
    """The real service with those models. Tests must not stop it."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(serving(drawn_repository))


@pytest.fixture(scope="session")
def run(drawn_repository):
    """Run `ganymede sample` with those models: `run(model, out, *flags, code=0)`."""
    return functools.partial(run_sample, drawn_repository)
