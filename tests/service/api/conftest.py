"""A server with the small models of tests/support/output_models.py."""

import pytest

from tests.support.output_models import write_output_models
from tests.support.servers import serving


@pytest.fixture(scope="session")
def output_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    write_output_models(folder)
    return folder


@pytest.fixture(scope="session")
def output_server(output_models):
    with serving(output_models) as running:
        yield running
