"""Fixtures of the fault tests: a service whose model fails on request, with concurrent clients.

Each test runs a few rounds with the other tests, and many with the marker `faults`
(`make test-faults`). Models (tests/support/failing_models.py), files and signals cause the faults:
the service has no switch for them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.crowd import ClassRequest
from tests.support.failing_models import CLASSES, write_failing
from tests.support.servers import Server, serving


@pytest.fixture(params=[1, pytest.param(10, marks=pytest.mark.faults)], ids=["short", "long"])
def rounds(request) -> int:
    """The number of repetitions of a test."""
    return request.param


@pytest.fixture
def failing_models(tmp_path) -> Path:
    """A model repository with the failing model, which a test may change."""
    write_failing(tmp_path / "models" / "m" / "1")
    return tmp_path / "models"


@pytest.fixture
def failing_server(failing_models) -> Iterator[Server]:
    """A service with the failing model, which a test may kill."""
    with serving(failing_models, "--insecure-admin") as server:
        yield server


@pytest.fixture(scope="session")
def expected(tmp_path_factory) -> Callable[[ClassRequest], np.ndarray]:
    """Computes the images of a request without a service.

    Only for requests whose classes all generate an image.
    """
    plan = ExecutionPlan(workers=1, threads=1, max_rows=8)
    folder = write_failing(tmp_path_factory.mktemp("expected") / "m" / "1")
    model = Model(folder, Provider.CPU, plan)

    def images(request: ClassRequest) -> np.ndarray:
        seeds = range(request.seed, request.seed + len(request.classes))
        return np.concatenate([model.generate([seed], [CLASSES.index("fine")]) for seed in seeds])

    return images
