"""What tests of styles and truncation stand on: small models made of ONNX nodes, and a server."""

import contextlib
from pathlib import Path

import pytest

from tests.support.drawn_models import write_models
from tests.support.servers import Server, serving


@pytest.fixture(scope="session")
def drawn_repository(tmp_path_factory) -> Path:
    """The models of tests/support/drawn_models.py."""
    models = tmp_path_factory.mktemp("drawn")
    write_models(models)
    return models


@pytest.fixture(scope="session")
def drawn_server(drawn_repository) -> Server:
    """The real service with those models; a test may not stop it."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(serving(drawn_repository))
