"""LitServe: workers of their own processes take batches of requests."""

from __future__ import annotations

import os

import litserve
from fastapi import Response
from generator import Generator, packed


class ImageGenerator(litserve.LitAPI):
    """A request is a seed, a number and a form; a batch is a list of such."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe names it
        """Load the model, once in each worker."""
        self.generator = Generator()

    def decode_request(self, request: dict) -> dict:
        """Return what is asked for."""
        return request

    def batch(self, inputs: list[dict]) -> list[dict]:
        """Leave the requests as they are: they differ in length."""
        return inputs

    def predict(self, x):
        """Make the pictures of all requests in one run."""
        wishes = x if isinstance(x, list) else [x]
        seeds = [s for w in wishes for s in range(w["seed"], w["seed"] + w["n"])]
        pixels = self.generator.pixels(seeds)
        made, at = [], 0
        for wish in wishes:
            made.append((pixels[at : at + wish["n"]], wish["format"]))
            at += wish["n"]
        return made if isinstance(x, list) else made[0]

    def unbatch(self, output: list) -> list:
        """Give each request its own."""
        return output

    def encode_response(self, output: tuple) -> Response:
        """Encode, in the worker too."""
        content, media_type = packed(*output)
        return Response(content, media_type=media_type)


if __name__ == "__main__":
    api = ImageGenerator(
        max_batch_size=int(os.environ["PEER_BATCH"]),
        batch_timeout=float(os.environ.get("PEER_WAIT_S", "0.001")),
        api_path="/generate",
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ["PEER_WORKERS"]),
        timeout=120,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
