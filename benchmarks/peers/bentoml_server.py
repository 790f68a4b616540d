"""BentoML with adaptive batching: a batchable method takes seeds, and gives a file for each.

What a batchable method returns is split by items, so an answer is JSON with a file in base64 for
each picture. Bytes cannot be had of it without a second service in a process of its own.
"""

from __future__ import annotations

import base64
import os

import bentoml
from generator import Generator, png


@bentoml.service(
    workers=int(os.environ["PEER_WORKERS"]),
    traffic={"timeout": 120},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class ImageGenerator:
    """Each worker is a process with a session of its own."""

    def __init__(self) -> None:
        self.generator = Generator()

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["PEER_BATCH"]), max_latency_ms=60000)
    def png(self, seeds: list[int]) -> list[str]:
        """Make pictures, each as a PNG file."""
        return [base64.b64encode(png(each)).decode() for each in self.generator.pixels(seeds)]

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["PEER_BATCH"]), max_latency_ms=60000)
    def npy(self, seeds: list[int]) -> list[str]:
        """Make pictures, each as its bytes."""
        return [base64.b64encode(each.tobytes()).decode() for each in self.generator.pixels(seeds)]
