"""Ray Serve: replicas behind a proxy; `@serve.batch` groups requests."""

from __future__ import annotations

import os
import signal

import ray
from generator import Generator, packed
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(
    num_replicas=int(os.environ["PEER_WORKERS"]),
    ray_actor_options={"num_cpus": 0.5},
    max_ongoing_requests=100,
)
class ImageGenerator:
    """A request is a seed, a count and a format; a batch is a list of requests."""

    def __init__(self) -> None:
        self.generator = Generator()

    @serve.batch(max_batch_size=int(os.environ["PEER_BATCH"]), batch_wait_timeout_s=0.001)
    async def generate(self, requests: list[dict]) -> list[tuple[bytes, str]]:
        """Generate the images of all requests in one run."""
        seeds = [s for w in requests for s in range(w["seed"], w["seed"] + w["n"])]
        pixels, at, responses = self.generator.pixels(seeds), 0, []
        for request in requests:
            responses.append(packed(pixels[at : at + request["n"]], request["format"]))
            at += request["n"]
        return responses

    async def __call__(self, request: Request) -> Response:
        """Handle one request."""
        content, media_type = await self.generate(await request.json())
        return Response(content, media_type=media_type)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])})
    serve.run(ImageGenerator.bind(), route_prefix="/generate")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
