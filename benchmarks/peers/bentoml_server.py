"""BentoML with adaptive batching: a batchable method takes seeds and returns one file per seed.

The result of a batchable method is split by items, so a response is JSON with base64 files.
Returning raw bytes would need a second service in its own process.
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
    """Each worker is a process with its own session."""

    def __init__(self) -> None:
        self.generator = Generator()

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["PEER_BATCH"]), max_latency_ms=60000)
    def png(self, seeds: list[int]) -> list[str]:
        """Generate images as PNG files."""
        return [base64.b64encode(png(each)).decode() for each in self.generator.pixels(seeds)]

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["PEER_BATCH"]), max_latency_ms=60000)
    def npy(self, seeds: list[int]) -> list[str]:
        """Generate images as raw bytes."""
        return [base64.b64encode(each.tobytes()).decode() for each in self.generator.pixels(seeds)]
