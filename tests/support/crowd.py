"""Many clients at a time, for a server with the model of tests/support/failing_models.py."""

import concurrent.futures
import io
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from tests.support.servers import Server


@dataclass(frozen=True)
class Ask:
    """One request: an image for each of `classes`, with seeds from `seed` on."""

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
    """Send all requests from `clients` clients; return the response or error of each, in order."""

    def send_all(share: Sequence[Ask]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with server.client() as client:
            for ask in share:
                try:
                    outcomes.append(ask.send(client))
                except httpx.TransportError as error:
                    outcomes.append(error)
        return outcomes

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(send_all, [asks[i::clients] for i in range(clients)]))
    return [parts[i % clients][i // clients] for i in range(len(asks))]


def pixels_of(response: httpx.Response) -> np.ndarray:
    """The images of a response in NPY format."""
    return np.load(io.BytesIO(response.content))
