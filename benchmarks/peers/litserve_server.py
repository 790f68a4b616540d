"""LitServe: workers in their own processes take batches of requests."""

from __future__ import annotations

import os

import litserve
from fastapi import Response
from generator import Generator, packed


class ImageGenerator(litserve.LitAPI):
    """A request is a seed, a count and a format; a batch is a list of requests."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe names it
        """Load the model in this worker."""
        self.generator = Generator()

    def decode_request(self, request: dict) -> dict:
        """Return the request unchanged."""
        return request

    def batch(self, inputs: list[dict]) -> list[dict]:
        """Return the requests as a list: they cannot be stacked, because they differ in length."""
        return inputs

    def predict(self, x):
        """Generate the images of all requests in one run."""
        requests = x if isinstance(x, list) else [x]
        seeds = [s for w in requests for s in range(w["seed"], w["seed"] + w["n"])]
        pixels = self.generator.pixels(seeds)
        results, at = [], 0
        for request in requests:
            results.append((pixels[at : at + request["n"]], request["format"]))
            at += request["n"]
        return results if isinstance(x, list) else results[0]

    def unbatch(self, output: list) -> list:
        """Return one result per request."""
        return output

    def encode_response(self, output: tuple) -> Response:
        """Encode in the worker."""
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
