"""Concurrent clients of a server with the model of tests/support/failing_models.py."""

import concurrent.futures
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from tests.support.servers import Server, wait_until


@dataclass(frozen=True)
class ClassRequest:
    """A request: an image for each of `classes`, with seeds from `seed` on."""

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


def send_concurrently(
    server: Server, requests: Sequence[ClassRequest], clients: int = 8
) -> list[Outcome]:
    """Send all requests from `clients` clients; return the response or error of each, in order."""

    def send_all(share: Sequence[ClassRequest]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with server.client() as client:
            for request in share:
                try:
                    outcomes.append(request.send(client))
                except httpx.TransportError as error:
                    outcomes.append(error)
        return outcomes

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(send_all, [requests[i::clients] for i in range(clients)]))
    return [parts[i % clients][i // clients] for i in range(len(requests))]


def pixels_of(response: httpx.Response) -> np.ndarray:
    """The images of a response in NPY format."""
    return np.load(io.BytesIO(response.content))


def request_images(
    client: httpx.Client, kind: str = "fine", n: int = 1, **options
) -> httpx.Response:
    """Request `n` images of the class `kind`, with further options of `httpx.Client.post`."""
    body = {"model": "m", "seed": 1, "n": n, "class": kind, "format": "npy"}
    return client.post("/v1/generate", json=body, **options)


def queued_pixels(server: Server) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return float(re.search(r"^ganymede_queue_pixels (.*)$", text, re.MULTILINE).group(1))


@contextlib.contextmanager
def request_in_progress(
    server: Server, kind: str
) -> Iterator[concurrent.futures.Future[httpx.Response]]:
    """Keep a request of class `kind` in progress during the block; yields its future."""
    with concurrent.futures.ThreadPoolExecutor() as pool, server.client() as client:
        future = pool.submit(request_images, client, kind)
        wait_until(lambda: queued_pixels(server) > 0 or future.done())
        yield future
