"""The service with the drawn models, and these models without the service."""

import pytest

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider


@pytest.fixture
def client(drawn_server):
    with drawn_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def load(drawn_repository):
    """Return a function that loads a drawn model by name."""
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))
