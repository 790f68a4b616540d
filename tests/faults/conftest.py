"""What is broken on purpose: a service whose model fails when told to, and a crowd of clients.

Each test runs for a few rounds with the other tests, and for many with the marker `faults`
(`make test-faults`). The faults are made by models (tests/support/failing_models.py), files and
signals: the service has no switch for them.
"""

import concurrent.futures
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.failing_models import CLASSES, write_failing
from tests.support.servers import Server, serving


@pytest.fixture(params=[1, pytest.param(10, marks=pytest.mark.faults)], ids=["short", "long"])
def rounds(request) -> int:
    """How often a test does what it does."""
    return request.param


@pytest.fixture
def failing_models(tmp_path) -> Path:
    """A models folder with the failing model, which a test may spoil."""
    write_failing(tmp_path / "models" / "m" / "1")
    return tmp_path / "models"


@pytest.fixture
def failing_server(failing_models) -> Iterator[Server]:
    """A service with that model; a test may kill it."""
    with serving(failing_models) as server:
        yield server


@dataclass(frozen=True)
class Ask:
    """One request: a picture for each of `classes`, from `seed` on."""

    seed: int
    classes: Sequence[str]

    def send(self, client: httpx.Client) -> httpx.Response:
        body = {
            "model": "m",
            "seeds": [self.seed + i for i in range(len(self.classes))],
            "class": list(self.classes),
            "format": "npy",
        }
        return client.post("/v1/generate", json=body)


Outcome = httpx.Response | httpx.TransportError


def crowd(server: Server, asks: Sequence[Ask], clients: int = 8) -> list[Outcome]:
    """Send all of `asks` by so many clients at a time; return what came of each, in their order."""

    def work(mine: Sequence[Ask]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with server.client() as client:
            for ask in mine:
                try:
                    outcomes.append(ask.send(client))
                except httpx.TransportError as error:
                    outcomes.append(error)
        return outcomes

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(work, [asks[i::clients] for i in range(clients)]))
    return [parts[i % clients][i // clients] for i in range(len(asks))]


@pytest.fixture
def expected(tmp_path) -> Callable[[Ask], np.ndarray]:
    """The pictures of a request whose classes all make one, by a model of the test's own."""
    plan = ExecutionPlan(workers=1, threads=1, max_rows=8)
    model = Model(write_failing(tmp_path / "own" / "m" / "1"), Provider.CPU, plan)

    def pictures(ask: Ask) -> np.ndarray:
        seeds = range(ask.seed, ask.seed + len(ask.classes))
        return np.concatenate([model.generate([seed], [CLASSES.index("fine")]) for seed in seeds])

    return pictures


def pixels_of(answer: httpx.Response) -> np.ndarray:
    return np.load(io.BytesIO(answer.content))


def worker_of(server: Server) -> psutil.Process:
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def wait_until_ready(server: Server, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(server.url + "/readyz", timeout=seconds).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, server.logged()
        time.sleep(0.05)
