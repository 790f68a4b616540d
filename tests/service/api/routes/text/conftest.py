"""A client of the server with the models of tests/support/output_models.py."""

import pytest


@pytest.fixture(scope="module")
def client(output_server):
    with output_server.client() as http:
        yield http
